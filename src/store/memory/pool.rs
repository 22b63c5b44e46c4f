//! A table of values that expire, bounded in bytes, in which every owner has a share.
//!
//! Where there is no room, the owner that holds the most gives way: of its values the one that was used longest ago goes. So
//! nobody's values are displaced by an owner that holds more, and an owner alone has the whole table. Which values those are
//! is found without looking at the others.
//!
//! Written by hand: no cache among the crates has owners, and those that expire values read their own clock, so that no test
//! could set the time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    time::Duration,
};

use crate::api::auth::Owner;

/// The table.
#[derive(Debug)]
pub(super) struct Pool<K, V> {
    limit: u64,
    bytes: u64,
    values: HashMap<K, Held<V>>,
    ends: BTreeSet<(Duration, K)>,
    owners: HashMap<Owner, Share<K>>,
    /// The owners by how much they hold.
    sizes: BTreeSet<(u64, Owner)>,
    /// How many uses there were so far.
    uses: u64,
}

/// A value in the table.
#[derive(Debug)]
pub(super) struct Held<V> {
    pub(super) value: V,
    /// When it expires.
    pub(super) expires: Duration,
    owner: Owner,
    bytes: u64,
    /// The number of its last use.
    use_number: u64,
    /// Whether it was read since then.
    is_read: bool,
}

/// What one owner holds.
#[derive(Debug)]
struct Share<K> {
    bytes: u64,
    /// The keys by their last use.
    uses: BTreeMap<u64, K>,
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Self { bytes: 0, uses: BTreeMap::new() }
    }
}

impl<K: Hash + Eq + Ord + Clone, V> Pool<K, V> {
    /// A table of at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            values: HashMap::new(),
            ends: BTreeSet::new(),
            owners: HashMap::new(),
            sizes: BTreeSet::new(),
            uses: 0,
        }
    }

    /// The value of a key that has not expired at `now`; an expired one is removed. It is spared once when its owner must
    /// give way.
    pub(super) fn get(&mut self, key: &K, now: Duration) -> Option<&Held<V>> {
        if self.values.get(key)?.expires <= now {
            self.remove(key);
            return None;
        }
        let held = self.values.get_mut(key)?;
        held.is_read = true;
        Some(held)
    }

    /// Puts a value in, which counts as a use of its key. Returns whether it is there: one that is larger than the table is
    /// not, and neither is one that its own owner would have to displace at once.
    pub(super) fn put(
        &mut self,
        (key, owner): (K, Owner),
        value: V,
        bytes: u64,
        (now, expires): (Duration, Duration),
    ) -> bool {
        self.remove(&key);
        if bytes > self.limit {
            return false;
        }
        self.uses += 1;
        let use_number = self.uses;
        self.ends.insert((expires, key.clone()));
        self.resize(owner, |share| {
            share.bytes += bytes;
            share.uses.insert(use_number, key.clone());
        });
        self.bytes += bytes;
        let held = Held { value, expires, owner, bytes, use_number, is_read: false };
        self.values.insert(key.clone(), held);
        while self.bytes > self.limit {
            let Some(gone) = self.expired(now).or_else(|| self.next_to_go(&key)) else { break };
            self.remove(&gone);
        }
        self.values.contains_key(&key)
    }

    /// Removes a value.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let held = self.values.remove(key)?;
        self.ends.remove(&(held.expires, key.clone()));
        self.resize(held.owner, |share| {
            share.bytes -= held.bytes;
            share.uses.remove(&held.use_number);
        });
        self.bytes -= held.bytes;
        Some(held.value)
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    /// A value that has expired.
    fn expired(&self, now: Duration) -> Option<K> {
        let (_, key) = self.ends.first().filter(|(end, _)| *end <= now)?;
        Some(key.clone())
    }

    /// The value that goes next: of the owner that holds the most, the one that was used longest ago, unless it was read
    /// since, which counts as a use now. The newest is no candidate while its owner has another.
    fn next_to_go(&mut self, newest: &K) -> Option<K> {
        let (_, owner) = self.sizes.last()?;
        let share = self.owners.get_mut(owner)?;
        loop {
            let (_, key) = share.uses.pop_first()?;
            let held = self.values.get_mut(&key)?;
            let is_used = std::mem::take(&mut held.is_read) || key == *newest;
            if is_used && !share.uses.is_empty() {
                self.uses += 1;
                held.use_number = self.uses;
                share.uses.insert(self.uses, key);
                continue;
            }
            share.uses.insert(held.use_number, key.clone());
            return Some(key);
        }
    }

    /// Changes the share of an owner, and its place by size; an empty share is removed.
    fn resize(&mut self, owner: Owner, change: impl FnOnce(&mut Share<K>)) {
        let share = self.owners.entry(owner).or_default();
        self.sizes.remove(&(share.bytes, owner));
        change(share);
        if share.uses.is_empty() {
            self.owners.remove(&owner);
        } else {
            self.sizes.insert((share.bytes, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(100);

    fn owner(number: u8) -> Owner {
        Owner::of_bytes([number; 16])
    }

    #[test]
    fn whoever_holds_the_most_gives_way_with_what_was_used_longest_ago() {
        let mut pool = Pool::new(100);
        let put =
            |pool: &mut Pool<u32, ()>, key, who, bytes| pool.put((key, owner(who)), (), bytes, (NOW, LATER));
        for key in 0..4 {
            assert!(put(&mut pool, key, 1, 10));
        }
        for key in 100..140 {
            assert!(put(&mut pool, key, 2, 6), "{key}");
        }
        assert!((0..4).all(|key| pool.get(&key, NOW).is_some()), "the other one's stay");
        assert!((100..130).all(|key| !pool.values.contains_key(&key)));
        assert!((130..140).all(|key| pool.values.contains_key(&key)));
        // What is used stays, what was used longest ago goes.
        assert!(put(&mut pool, 130, 2, 6) && put(&mut pool, 140, 2, 6));
        assert!(pool.values.contains_key(&130) && !pool.values.contains_key(&131));
        // A third one gets room from the biggest alone.
        assert!(put(&mut pool, 200, 3, 20));
        assert!((0..4).all(|key| pool.get(&key, NOW).is_some()) && pool.get(&200, NOW).is_some());
        assert_eq!(pool.bytes, pool.values.values().map(|held| held.bytes).sum::<u64>());
        assert!(pool.bytes <= 100);
    }

    #[test]
    fn an_owner_alone_has_all_of_it_and_what_is_too_large_is_refused() {
        let mut pool = Pool::new(100);
        assert!(!pool.put((0, owner(1)), (), 101, (NOW, LATER)));
        for key in 1..20 {
            assert!(pool.put((key, owner(1)), (), 10, (NOW, LATER)));
        }
        assert_eq!(pool.values.len(), 10);
        assert!(pool.put((99, owner(1)), (), 100, (NOW, LATER)));
        assert_eq!(pool.values.len(), 1);
        // Nobody takes more than half from an other one at once.
        assert!(pool.put((1, owner(2)), (), 10, (NOW, LATER)) && pool.get(&99, NOW).is_none());
        assert!(pool.put((2, owner(1)), (), 90, (NOW, LATER)));
        assert!(!pool.put((3, owner(2)), (), 95, (NOW, LATER)), "it alone would hold the most");
        pool.clear();
        assert_eq!((pool.bytes, pool.owners.len(), pool.sizes.len(), pool.ends.len()), (0, 0, 0, 0));
    }

    #[test]
    fn what_has_expired_is_not_there_and_goes_first() {
        let mut pool = Pool::new(100);
        assert!(pool.put((1, owner(1)), (), 50, (NOW, NOW * 2)));
        assert!(pool.put((2, owner(2)), (), 50, (NOW, LATER)));
        assert!(pool.get(&1, NOW).is_some());
        assert!(pool.put((3, owner(2)), (), 50, (NOW * 2, LATER)));
        assert!(pool.get(&2, NOW).is_some() && pool.get(&1, NOW).is_none());
        assert!(pool.get(&3, LATER).is_none());
        assert_eq!(pool.bytes, 50);
    }

    #[test]
    fn what_was_read_is_spared_once() {
        let mut pool = Pool::new(30);
        for key in 1..=3 {
            assert!(pool.put((key, owner(1)), (), 10, (NOW, LATER)));
        }
        assert!(pool.get(&1, NOW).is_some());
        assert!(pool.put((4, owner(1)), (), 10, (NOW, LATER)));
        assert!(pool.values.contains_key(&1) && !pool.values.contains_key(&2));
        for key in 5..=7 {
            assert!(pool.put((key, owner(1)), (), 10, (NOW, LATER)));
        }
        assert!(!pool.values.contains_key(&1));
    }
}
