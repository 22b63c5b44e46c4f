//! A time limit on a future, by Spin's timer. A future whose limit passed can be waited for again.

use std::{future::Future, time::Duration};

use futures::future::{Either, select};
use spin_sdk::time::sleep;

/// The output of `future`; `None` when `limit` passes first.
pub(crate) async fn within<F: Future + Unpin>(limit: Duration, future: &mut F) -> Option<F::Output> {
    match select(future, std::pin::pin!(sleep(limit))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
