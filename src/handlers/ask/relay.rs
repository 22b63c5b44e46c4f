//! The surfaces that Ollama speaks itself: a request goes upstream as it came, and the answer comes back as it is.
//!
//! Bodies are looked into, never written anew: only a session's history is spliced in, and only where there is one.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body::Body;

use super::{
    conversation::{NewTurn, SessionState, session_id},
    lookup::Lookup,
};
use crate::{
    api::{
        auth::CallerId,
        body,
        endpoint::Endpoint,
        error::Error,
        reply::{self, ReplyBody},
    },
    cache::{CacheKey, Delivery, KeyContext},
    flight::{Outcome, Rendering},
    host::{Platform, Service},
    platform::MaybeSend,
    request::Account,
    upstream::{Reading, RoutingKey, UpstreamRequest},
    wire::members::Members,
};

pub(crate) async fn relay<P, B>(
    service: &Service<P>,
    surface: Endpoint,
    parts: &Parts,
    body: B,
    account: &mut Account,
) -> Result<Response<ReplyBody>, Error>
where
    P: Platform,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    let config = service.config();
    let caller = CallerId::of(&parts.headers, config.caller_header.as_ref())?;
    let session = session_id(&parts.headers)?;
    if !session.is_empty() && surface.dialect().is_none() {
        return Err(Error::SessionUnsupported);
    }
    let body = match surface.method() {
        Method::POST => {
            body::read(service, &parts.headers, body, surface.body_limit(&config.body_limits)).await?
        }
        _ => Bytes::new(),
    };
    // A body that is not understood goes upstream all the same: Ollama says best what is wrong with it.
    let members = Members::parse(&body);
    let member = |name| members.as_ref().and_then(|members| members.string(name)).map(Cow::into_owned);
    let named = parts.uri.path().strip_prefix(Endpoint::OpenAiModel.path()).map(str::to_owned);
    let model = named.clone().or_else(|| member("model"));
    // Where clients of old call it so.
    let mut model = model.or_else(|| member("name").filter(|_| surface == Endpoint::OllamaShow));
    account.model.clone_from(&model);
    let asked = members.as_ref().and_then(|members| members.boolean("stream"));
    let streams = surface.protocol().is_some() && asked.unwrap_or_else(|| surface.streams_by_default());

    let covers = |model| config.cache_modes.of(model).covers(Some(surface), members.as_ref());
    let is_covered = covers(model.as_deref());
    let asked_for = model.clone();
    let mut lookup =
        Lookup::new(&parts.headers, surface.path(), &caller, asked_for.as_deref(), session, is_covered)?;
    lookup.may_turn = model.is_none();
    if surface.asks_a_model() {
        account.cache = Some(lookup.cache_status());
    }
    let key_of =
        |context: &KeyContext<'_>, body: &Bytes| Some(CacheKey::of_request(context, &Members::parse(body)?));
    let form = Delivery::of(streams);
    let mut prefetched = lookup.ask(service, account, form, |context| key_of(context, &body)).await?;
    let fresh = match (&prefetched.memory, &members, surface.dialect()) {
        (SessionState::Loaded(..), Some(members), Some(dialect)) => {
            NewTurn::of(&body, members, dialect, prefetched.memory.awaits_results())
        }
        _ => None,
    };
    let own_model =
        prefetched.memory.model().filter(|_| fresh.is_some() && model.is_none()).map(str::to_owned);
    if let Some(own) = &own_model {
        lookup.turn_to(service, account, &mut prefetched, own, covers(Some(own))).await;
        account.cache = Some(lookup.cache_status());
        account.model = Some(own.clone());
        model = own_model.clone();
    }
    let continues = fresh.as_ref().is_some_and(|fresh| fresh.continues);
    if fresh.is_some() {
        let (members, dialect) = (members.as_ref(), surface.dialect());
        if continues {
            Box::pin(prefetched.memory.reach_question(service, account)).await;
        }
        Box::pin(prefetched.memory.learn_window(service, members, dialect, model.as_deref())).await;
    }
    let memory = &prefetched.memory;
    let history =
        memory.history(config.history, continues, members.as_ref(), surface.dialect(), model.as_deref());
    account.left_out = fresh.as_ref().map_or(0, |_| history.left_out);
    let prompt = members
        .as_ref()
        .and_then(|members| ["messages", "prompt", "input"].into_iter().find_map(|name| members.raw(name)));
    let prompt = prompt.map(|prompt| prompt.get().as_bytes()).unwrap_or_default();
    let routing_key =
        RoutingKey::new(&caller, session, surface.work(), model.as_deref(), members.as_ref(), prompt);
    let commit = fresh.as_ref().and_then(|fresh| fresh.commit(memory, &history));
    let asked = fresh.map_or_else(|| body.clone(), |fresh| fresh.continuing(&history, own_model.as_deref()));
    let fingerprint = || key_of(&KeyContext::nowhere(surface.path()), &body);
    let cache_plan = lookup.cache_plan(service, &prefetched, |context| key_of(context, &asked), fingerprint);
    let order = UpstreamRequest {
        method: surface.method(),
        path: match named {
            Some(_) => Cow::Owned(parts.uri.path().to_owned()),
            None => Cow::Borrowed(surface.path()),
        },
        body: asked,
        model: model.clone(),
        routing_key,
        protocol: surface.protocol(),
        streams,
        reading: Reading::AsSent,
    };
    let flight = lookup.flight(order, Rendering::Unchanged, cache_plan, commit, memory, account);
    match lookup.answer(service, account, prefetched, flight).await? {
        Outcome::Whole(original, session) => {
            account.session = session.or(account.session);
            Ok(reply::typed(original.status, original.content_type, original.body))
        }
        Outcome::Streaming(content_type, inlet) => Ok(reply::streamed(content_type, inlet)),
        Outcome::Spoken(answer, _) => Ok(reply::complete(StatusCode::OK, "text/plain", answer.spoken.text)),
    }
}
