//! The port for randomness, and the ids made from it. Nothing else in the core is random.

use super::{MaybeSend, MaybeSync};

/// Gives random bits, good enough for identifiers that must not be guessed.
pub trait Entropy: MaybeSend + MaybeSync {
    /// 64 random bits.
    fn random(&self) -> u64;
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id(source: &impl Entropy) -> String {
    format!("{:016x}{:016x}", source.random(), source.random())
}
