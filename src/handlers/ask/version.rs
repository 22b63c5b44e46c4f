//! `GET /api/version` for a client without a key, where keys are set: Ollama's clients ask it to find out whether a server
//! is there.
//!
//! It must never send anything to a host: whoever has no key makes nobody work.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::{
    api::{
        error::Error,
        reply::{self, ReplyBody},
    },
    host::{Platform, Service},
    request::StoreAccess,
    upstream::probe,
};

#[derive(Serialize)]
struct Version<'a> {
    version: &'a str,
}

/// Answers with the version that the first host told when it was last looked at.
///
/// # Errors
/// [`Error::VersionUnknown`] when none has told it yet.
pub(crate) async fn last_seen<P: Platform>(
    service: &Service<P>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let known = probe::known(service, store).await;
    let hosts = service.fleet().hosts();
    let versions = hosts.iter().filter_map(|backend| Some(known.get(backend.url())?.version.as_str()));
    let version = versions.into_iter().find(|version| !version.is_empty()).ok_or(Error::VersionUnknown)?;
    Ok(reply::json(StatusCode::OK, &Version { version }))
}
