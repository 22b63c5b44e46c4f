//! Spreading: hashes, and orders of hosts by them.

/// The step of [`split_mix`]'s counter.
pub(super) const SPLIT_MIX_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// `SplitMix64` (Steele, Lea and Flood 2014): spreads a seed whose bits are not, such as a counter.
pub(super) fn split_mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(SPLIT_MIX_GAMMA);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// FNV-1a (Fowler, Noll and Vo), 64 bits.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The places of hosts in the order that `key` ranks them in: weighted rendezvous hashing (Schindelhauer and Schomaker
/// 2005). A host that goes moves nobody but its own keys; each is first for a share of the keys that is its weight's.
pub(super) fn ranking<'a>(hosts: impl Iterator<Item = (usize, &'a str, u64)>, key: u64) -> Vec<usize> {
    let score = |url: &str, weight: u64| {
        let bits = split_mix(key ^ fnv(url.as_bytes()));
        // From 2^-53 to 1, so that its logarithm is finite and not above 0.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float, and weights are small")]
        let (unit, weight) = (((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64, weight as f64);
        -unit.ln() / weight
    };
    let mut scored: Vec<_> = hosts.map(|(place, url, weight)| (score(url, weight), place)).collect();
    scored.sort_by(|left, right| left.0.total_cmp(&right.0));
    scored.into_iter().map(|(_, place)| place).collect()
}
