//! Hash functions, and the order of hosts by hash.

/// The increment of [`split_mix`]'s counter.
const SPLIT_MIX_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// `SplitMix64` (Steele, Lea and Flood 2014): makes evenly distributed bits from a seed such as a counter.
pub(super) fn split_mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(SPLIT_MIX_GAMMA);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The [`fnv`] of nothing.
pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll and Vo), 64 bits.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(FNV_START, |hash, byte| fnv_on(hash, *byte))
}

/// The [`fnv`] of one byte more.
pub(super) const fn fnv_on(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

/// The indices of the hosts in the order for `key`: weighted rendezvous hashing (Schindelhauer and Schomaker 2005).
/// When a host is removed, only its own keys move; each host is first for a share of the keys in proportion to its
/// weight.
pub(super) fn ranking<'a>(hosts: impl Iterator<Item = (usize, &'a str, u64)>, key: u64) -> Vec<usize> {
    let score = |url: &str, weight: u64| {
        let bits = split_mix(key ^ fnv(url.as_bytes()));
        // Between 2^-53 and 1, so that the logarithm is finite and at most 0.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float, and weights are small")]
        let (unit, weight) = (((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64, weight as f64);
        -unit.ln() / weight
    };
    let mut scored: Vec<_> = hosts.map(|(position, url, weight)| (score(url, weight), position)).collect();
    scored.sort_by(|left, right| left.0.total_cmp(&right.0));
    scored.into_iter().map(|(_, position)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [(&str, u64); 4] =
        [("http://a:1", 1), ("http://b:1", 2), ("http://c:1", 1), ("http://d:1", 4)];

    fn ranked(hosts: &[(&'static str, u64)], key: u64) -> Vec<&'static str> {
        let positions = hosts.iter().enumerate().map(|(position, (url, weight))| (position, *url, *weight));
        ranking(positions, key).into_iter().map(|position| hosts[position].0).collect()
    }

    #[test]
    fn each_host_is_first_for_its_share_of_the_keys() {
        let mut counts = [0_u64; 4];
        for key in 0..8_000 {
            let first = ranked(&HOSTS, key)[0];
            counts[HOSTS.iter().position(|(url, _)| *url == first).unwrap()] += 1;
        }
        for ((url, weight), count) in HOSTS.into_iter().zip(counts) {
            assert!((weight * 900..weight * 1_100).contains(&count), "{url}: {counts:?}");
        }
    }

    #[test]
    fn the_order_is_the_same_wherever_a_host_stands_and_whoever_else_goes() {
        let turned = [HOSTS[2], HOSTS[0], HOSTS[3], HOSTS[1]];
        for key in 0..500 {
            let all = ranked(&HOSTS, key);
            assert_eq!(ranked(&turned, key), all);
            for gone in 0..HOSTS.len() {
                let mut rest = HOSTS.to_vec();
                let gone = rest.remove(gone).0;
                let kept: Vec<_> = all.iter().copied().filter(|url| *url != gone).collect();
                assert_eq!(ranked(&rest, key), kept);
            }
        }
    }

    #[test]
    fn a_host_that_is_given_more_weight_loses_none_of_its_keys() {
        let heavier = HOSTS.map(|(url, weight)| (url, if url == "http://a:1" { 5 } else { weight }));
        for key in (0..500).filter(|key| ranked(&HOSTS, *key)[0] == "http://a:1") {
            assert_eq!(ranked(&heavier, key)[0], "http://a:1");
        }
    }

    #[test]
    fn no_host_has_no_order_and_every_key_has_one() {
        assert!(ranking(std::iter::empty(), 7).is_empty());
        for key in [0, u64::MAX, fnv(b""), fnv(b"http://a:1")] {
            assert_eq!(ranked(&HOSTS, key).len(), 4);
        }
        // The published test vectors.
        assert_eq!((fnv(b""), fnv(b"a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
