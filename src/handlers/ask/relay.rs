//! The surfaces that Ollama speaks itself: a request goes upstream as it came, and the answer comes back as it is.
//!
//! Bodies are looked into, never written anew: only a session's history is spliced in, and only where there is one.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body::Body;

use super::{
    conversation::{Fresh, Memory, session_id},
    lookup::Inquiry,
};
use crate::{
    api::{
        auth::Scope,
        body,
        endpoint::Surface,
        error::Error,
        reply::{self, ReplyBody},
    },
    cache::{CacheKey, Circumstances, Form},
    flight::{Landing, Rendering},
    host::Host,
    platform::MaybeSend,
    request::Account,
    upstream::{Destination, Order, Reading},
    wire::members::Members,
};

pub(crate) async fn relay<H, B>(
    host: &H,
    surface: Surface,
    parts: &Parts,
    body: B,
    account: &mut Account,
) -> Result<Response<ReplyBody>, Error>
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    let config = host.config();
    let scope = Scope::of(&parts.headers, config.caller_header.as_ref())?;
    let session = session_id(&parts.headers)?;
    if !session.is_empty() && surface.dialect().is_none() {
        return Err(Error::SessionUnsupported);
    }
    let body = match surface.method() {
        Method::POST => {
            body::read(host, &parts.headers, body, surface.body_limit(&config.body_limits)).await?
        }
        _ => Bytes::new(),
    };
    // A body that is not understood goes upstream all the same: Ollama says best what is wrong with it.
    let members = Members::parse(&body);
    let member = |name| members.as_ref().and_then(|members| members.string(name)).map(Cow::into_owned);
    let named = parts.uri.path().strip_prefix(Surface::OpenAiModel.path()).map(str::to_owned);
    let model = named.clone().or_else(|| member("model"));
    // Where clients of old call it so.
    let mut model = model.or_else(|| member("name").filter(|_| surface == Surface::OllamaShow));
    account.model.clone_from(&model);
    let asked = members.as_ref().and_then(|members| members.boolean("stream"));
    let streams = surface.protocol().is_some() && asked.unwrap_or_else(|| surface.streams_by_default());

    let covers = |model| config.cache_modes.of(model).covers(Some(surface), members.as_ref());
    let is_covered = covers(model.as_deref());
    let asked_for = model.clone();
    let mut inquiry =
        Inquiry::new(&parts.headers, surface.path(), &scope, asked_for.as_deref(), session, is_covered)?;
    inquiry.may_turn = model.is_none();
    if surface.asks_a_model() {
        account.cache = Some(inquiry.cache_status());
    }
    let key_of = |circumstances: &Circumstances<'_>, body: &Bytes| {
        Some(CacheKey::of_request(circumstances, &Members::parse(body)?))
    };
    let form = Form::of(streams);
    let mut outset = inquiry.ask(host, account, form, |circumstances| key_of(circumstances, &body)).await?;
    let fresh = match (&outset.memory, &members, surface.dialect()) {
        (Memory::Loaded(..), Some(members), Some(dialect)) => {
            Fresh::of(&body, members, dialect, outset.memory.awaits_results())
        }
        _ => None,
    };
    let own_model = outset.memory.model().filter(|_| fresh.is_some() && model.is_none()).map(str::to_owned);
    if let Some(own) = &own_model {
        inquiry.turn_to(host, account, &mut outset, own, covers(Some(own))).await;
        account.cache = Some(inquiry.cache_status());
        account.model = Some(own.clone());
        model = own_model.clone();
    }
    let continues = fresh.as_ref().is_some_and(|fresh| fresh.continues);
    if fresh.is_some() {
        let (members, dialect) = (members.as_ref(), surface.dialect());
        if continues {
            Box::pin(outset.memory.reach_question(host, account)).await;
        }
        Box::pin(outset.memory.learn_window(host, members, dialect, model.as_deref())).await;
    }
    let memory = &outset.memory;
    let history =
        memory.history(config.history, continues, members.as_ref(), surface.dialect(), model.as_deref());
    account.left_out = fresh.as_ref().map_or(0, |_| history.left_out);
    let prompt = members
        .as_ref()
        .and_then(|members| ["messages", "prompt", "input"].into_iter().find_map(|name| members.raw(name)));
    let prompt = prompt.map(|prompt| prompt.get().as_bytes()).unwrap_or_default();
    let destination =
        Destination::new(&scope, session, surface.work(), model.as_deref(), members.as_ref(), prompt);
    let commit = fresh.as_ref().and_then(|fresh| fresh.commit(memory, &history));
    let asked = fresh.map_or_else(|| body.clone(), |fresh| fresh.continuing(&history, own_model.as_deref()));
    let fingerprint = || key_of(&Circumstances::nowhere(surface.path()), &body);
    let keep = inquiry.keep(host, &outset, |circumstances| key_of(circumstances, &asked), fingerprint);
    let order = Order {
        method: surface.method(),
        path: match named {
            Some(_) => Cow::Owned(parts.uri.path().to_owned()),
            None => Cow::Borrowed(surface.path()),
        },
        body: asked,
        model: model.clone(),
        destination,
        protocol: surface.protocol(),
        streams,
        reading: Reading::AsSent,
    };
    let flight = inquiry.flight(order, Rendering::Unchanged, keep, commit, memory, account);
    match inquiry.answer(host, account, outset, flight).await? {
        Landing::Whole(original, session) => {
            account.session = session.or(account.session);
            Ok(reply::typed(original.status, original.content_type, original.body))
        }
        Landing::Streaming(content_type, inlet) => Ok(reply::streamed(content_type, inlet)),
        Landing::Spoken(answer, _) => Ok(reply::complete(StatusCode::OK, "text/plain", answer.spoken.text)),
    }
}
