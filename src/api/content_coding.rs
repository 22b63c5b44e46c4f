//! `Content-Encoding: zstd`: a request's body that is unpacked while it is read, so that whoever reads it counts and sees
//! what was sent.
//!
//! One poll unpacks little, whatever is packed, and then lets others run. It must never hold more than the window of the
//! frame, a block, and the piece that arrived.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use http_body::{Body, Frame};

use super::{error::Error, memory_budget::HeldBytes};
use crate::platform::Locked;
use crate::wire::zstd::{Damaged, Decoder, Step};

/// How many bytes are fed to the decoder at once.
const PIECE: usize = 16 << 10;
/// How many steps are taken between two yields. A step unpacks a block, 128 KiB, at most.
const STEPS: u32 = 2;
/// How much more than what it unpacks to a body may be: packing what is random makes it a little longer.
const OVERHEAD: u64 = 64 << 10;

/// Whether a body is packed with Zstandard once, and with nothing else.
pub(crate) fn is_zstd(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let codings = codings.map(<[u8]>::trim_ascii);
    let mut packed = codings.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    packed.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"zstd")) && packed.next().is_none()
}

/// A body that is unpacked while it is read, the headers of what it unpacks to, and what is wrong with it: its reader
/// takes any error for a body that did not arrive. `window` counts what the decoder holds.
pub(crate) fn unpacked<B>(
    headers: &HeaderMap,
    packed: B,
    limit: u64,
    window: HeldBytes,
) -> (HeaderMap, UnpackedBody<B>, Fault) {
    let mut headers = headers.clone();
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_LENGTH);
    let fault = Fault::default();
    let body = UnpackedBody {
        packed,
        piece: Bytes::new(),
        decoder: Decoder::new(),
        window,
        room: limit.saturating_add(OVERHEAD),
        steps: 0,
        has_ended: false,
        fault: fault.clone(),
    };
    (headers, body, fault)
}

/// Why a body could not be unpacked, if so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault(Arc<Locked<Option<Error>>>);

impl Fault {
    /// What reading the body gave, or what is wrong with it.
    pub(crate) fn or<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        self.0.lock().take().map_or(read, Err)
    }

    fn set(&self, error: Error) {
        *self.0.lock() = Some(error);
    }
}

/// A body that is unpacked while it is read.
pub(crate) struct UnpackedBody<B> {
    packed: B,
    /// What arrived and is not yet fed to the decoder.
    piece: Bytes,
    decoder: Decoder,
    /// What the decoder holds, as it counts in the memory budget.
    window: HeldBytes,
    /// How many packed bytes may still arrive.
    room: u64,
    /// The steps since the last yield.
    steps: u32,
    has_ended: bool,
    fault: Fault,
}

/// Why no more is unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError<E> {
    Incomplete(E),
    Damaged,
    /// The memory budget has no room for what the decoder holds.
    NoRoom(Error),
}

impl<E> From<Damaged> for UnpackError<E> {
    fn from(Damaged: Damaged) -> Self {
        Self::Damaged
    }
}

impl<B: Body<Data = Bytes> + Unpin> UnpackedBody<B> {
    fn poll_unpacked(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, UnpackError<B::Error>>> {
        loop {
            if self.steps == STEPS {
                self.steps = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.steps += 1;
            let step = self.decoder.step()?;
            self.window.try_grow_to(self.decoder.held()).map_err(UnpackError::NoRoom)?;
            match step {
                Step::Unpacked(bytes) => return Poll::Ready(Ok(Some(bytes.into()))),
                Step::Nothing => continue,
                Step::Hungry if self.has_ended => return Poll::Ready(Ok(None)),
                Step::Hungry => (),
            }
            if self.piece.is_empty() {
                match std::task::ready!(Pin::new(&mut self.packed).poll_frame(context)) {
                    Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => return Poll::Ready(Err(UnpackError::Incomplete(error))),
                    None => {
                        self.has_ended = true;
                        self.decoder.end();
                        continue;
                    }
                }
                let room = self.room.checked_sub(self.piece.len() as u64);
                self.room = room.ok_or(UnpackError::Damaged)?;
            }
            let fed = self.piece.len().min(PIECE);
            self.decoder.feed(self.piece.get(..fed).unwrap_or_default());
            self.piece.advance(fed);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for UnpackedBody<B> {
    type Data = Bytes;
    type Error = UnpackError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let unpacked = std::task::ready!(self.poll_unpacked(context)).transpose();
        match &unpacked {
            Some(Err(UnpackError::Damaged)) => self.fault.set(Error::DamagedBody),
            Some(Err(UnpackError::NoRoom(error))) => self.fault.set(error.clone()),
            Some(Ok(_) | Err(UnpackError::Incomplete(_))) | None => {}
        }
        Poll::Ready(unpacked.map(|unpacked| unpacked.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn zstd_is_told_from_every_other_coding() {
        for (values, expected) in [
            (&["zstd"][..], true),
            (&["ZSTD"], true),
            (&[" zstd , identity"], true),
            (&["identity", "Zstd"], true),
            (&[], false),
            (&["identity"], false),
            (&["gzip"], false),
            (&["zstd, gzip"], false),
            (&["zstd", "zstd"], false),
            (&["zstd;q=1"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(is_zstd(&headers), expected, "{values:?}");
        }
    }
}
