//! `DELETE /cache`: purges cached answers on all replicas at once.
//!
//! A purge must never search the store. It begins a new epoch, and the epoch is part of every cache key, so the old
//! entries are not found any more and expire. An answer that is being generated during the purge is stored under the
//! old epoch.

use bytes::Bytes;
use http::{Response, StatusCode, request::Parts};

use crate::{
    api::{
        error::Error,
        query::parameter,
        reply::{self, ReplyBody},
    },
    cache::epoch_name,
    host::{Platform, Service},
    request::StoreAccess,
};

/// Purges all answers, or those of the model in the query.
///
/// # Errors
/// [`Error::PurgeForbidden`] without the admin token; [`Error::StoreUnavailable`].
pub(crate) async fn purge<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    if !service.config().access.admin_token.is_held(&parts.headers) {
        return Err(Error::PurgeForbidden);
    }
    let model = match parameter(parts.uri.query(), "model").as_deref() {
        Some("") => return Err(Error::EmptyField("model")),
        model => model.map(epoch_name),
    };
    match store.purge(service, model.as_deref()).await {
        Some(()) => Ok(reply::typed(StatusCode::NO_CONTENT, None, Bytes::new())),
        None => Err(Error::StoreUnavailable),
    }
}
