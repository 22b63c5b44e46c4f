//! `DELETE /cache`: answers are forgotten at once, by all replicas.
//!
//! Nothing is looked for and removed: another epoch begins, in which no key is what it was. What an answer that is being
//! made now adds belongs to the former one.

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

/// Forgets all answers, or those of the model that the query names.
///
/// # Errors
/// [`Error::PurgeForbidden`] without the admin token; [`Error::StoreUnavailable`].
pub(crate) async fn purge<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    if !service.config().admin_token.is_held(&parts.headers) {
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
