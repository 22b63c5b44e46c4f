//! The bytes that this process holds for its clients: request bodies that arrive, wait, or may be sent once more.
//!
//! Nothing here waits. A body that finds no room is refused at once, so that no two requests hold one half of their bodies
//! each and wait for room for the other half.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use super::{
    auth::Owner,
    error::{Error, Overload},
};
use crate::platform::Locked;

/// A body up to this length counts nothing, because its connection's buffers are as large.
const UNCOUNTED: usize = 16 << 10;
/// The step in which a body that arrives is counted, so that not every piece of it takes the lock.
const STEP: usize = 64 << 10;
/// The setting that bounds the budget.
const SETTING: &str = "MEMORY_BUDGET";
/// When a client whose body found no room should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A number of bytes that all requests of a process share. Clones share it.
#[derive(Clone)]
pub(crate) struct MemoryBudget(Arc<Pool>);

struct Pool {
    limit: usize,
    held: Locked<Held>,
}

/// What is held, in bytes.
#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_owner: HashMap<Owner, usize>,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, of which nothing is held.
    pub(crate) fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self(Arc::new(Pool { limit, held: Locked::default() }))
    }

    /// The account of one request, which holds nothing yet. `owner` is whose share it uses; `None` where there is nobody to
    /// share with.
    pub(crate) fn account(&self, owner: Option<Owner>) -> HeldBytes {
        HeldBytes(Some(Account { pool: Arc::clone(&self.0), owner, counted: 0 }))
    }

    /// How many bytes may be held.
    pub(crate) fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes are held.
    pub(crate) fn held(&self) -> usize {
        self.0.held.lock().total
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "MemoryBudget({})", self.0.limit)
    }
}

/// Whether `more` bytes fit. A caller may hold at most as much as stays free, so that there is room for another caller,
/// however many have come: the dynamic threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for
/// Shared-Memory Packet Switches", 1998) with a factor of one.
fn fits(limit: usize, total: usize, of_caller: Option<usize>, more: usize) -> bool {
    let Some(free) = limit.checked_sub(total).and_then(|free| free.checked_sub(more)) else { return false };
    of_caller.is_none_or(|of_caller| of_caller.saturating_add(more) <= free)
}

impl Pool {
    /// The most bytes that one request may hold while there is no other.
    fn most(&self, has_share: bool) -> usize {
        if has_share { self.limit / 2 } else { self.limit }
    }

    /// Counts `more` bytes, if they fit.
    fn take(&self, owner: Option<Owner>, more: usize) -> bool {
        let mut held = self.held.lock();
        let of_caller = owner.map(|owner| held.by_owner.get(&owner).copied().unwrap_or(0));
        if !fits(self.limit, held.total, of_caller, more) {
            return false;
        }
        held.total += more;
        if let Some(owner) = owner {
            *held.by_owner.entry(owner).or_default() += more;
        }
        true
    }

    fn give_back(&self, owner: Option<Owner>, bytes: usize) {
        let mut held = self.held.lock();
        held.total = held.total.saturating_sub(bytes);
        let Some(owner) = owner else { return };
        let left = held.by_owner.get_mut(&owner).map(|of_caller| {
            *of_caller = of_caller.saturating_sub(bytes);
            *of_caller
        });
        if left == Some(0) {
            held.by_owner.remove(&owner);
        }
    }
}

/// The bytes that one request holds. They are given back when it is dropped. The default holds nothing, and counts nothing.
#[derive(Default)]
pub(crate) struct HeldBytes(Option<Account>);

struct Account {
    pool: Arc<Pool>,
    owner: Option<Owner>,
    counted: usize,
}

impl HeldBytes {
    /// Counts a body of `bytes` so far.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is no room for them, and [`Error::BodyTooLarge`] when there never will be.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        let Some(account) = &mut self.0 else { return Ok(()) };
        if bytes <= UNCOUNTED.max(account.counted) {
            return Ok(());
        }
        let most = account.pool.most(account.owner.is_some());
        if bytes > most {
            return Err(Error::BodyTooLarge { limit: most as u64, setting: SETTING });
        }
        // A small budget may have room for the bytes, and none for a whole step.
        let exactly = bytes - account.counted;
        for more in [exactly.next_multiple_of(STEP), exactly] {
            if account.pool.take(account.owner, more) {
                account.counted += more;
                return Ok(());
            }
        }
        Err(Error::Overloaded { cause: Overload::Memory, retry_after: RETRY_AFTER })
    }

    /// Counts a body of `bytes` instead of the one that was counted.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is no room for it.
    pub(crate) fn change_to(&mut self, bytes: usize) -> Result<(), Error> {
        if let Some(account) = &mut self.0 {
            let needed = if bytes <= UNCOUNTED { 0 } else { bytes };
            let surplus = account.counted.saturating_sub(needed);
            account.give_back(surplus);
        }
        self.grow_to(bytes)
    }
}

impl Account {
    fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.pool.give_back(self.owner, bytes);
            self.counted -= bytes;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_back(self.counted);
    }
}

impl fmt::Debug for HeldBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HeldBytes({})", self.0.as_ref().map_or(0, |account| account.counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::CallerId;

    const MIB: usize = 1 << 20;

    fn refused(result: &Result<(), Error>) -> bool {
        matches!(result, Err(Error::Overloaded { cause: Overload::Memory, .. }))
    }

    #[test]
    fn a_body_is_counted_as_it_comes_and_given_back_at_its_end() {
        let budget = MemoryBudget::new(4 * MIB as u64);
        let mut first = budget.account(None);
        first.grow_to(UNCOUNTED).unwrap();
        assert_eq!(budget.held(), 0);
        first.grow_to(UNCOUNTED + 1).unwrap();
        assert_eq!(budget.held(), STEP);
        first.grow_to(3 * MIB).unwrap();
        let mut second = budget.account(None);
        assert!(refused(&second.grow_to(2 * MIB)));
        second.grow_to(MIB).unwrap();
        drop(first);
        assert_eq!(budget.held(), MIB);
        second.change_to(2 * MIB).unwrap();
        assert_eq!(budget.held(), 2 * MIB);
        second.change_to(1).unwrap();
        assert_eq!(budget.held(), 0);
        let too_large = Error::BodyTooLarge { limit: 4 * MIB as u64, setting: SETTING };
        assert_eq!(second.grow_to(4 * MIB + 1), Err(too_large), "it would never fit");
    }

    #[test]
    fn one_caller_leaves_room_for_another_however_much_it_sends() {
        let budget = MemoryBudget::new(8 * MIB as u64);
        let headers = [(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer made-up"))];
        let unnamed = CallerId::of(&headers.into_iter().collect(), None, None).unwrap().owner();
        assert_eq!(unnamed, CallerId::public().owner(), "whom nobody verified has no share of its own");
        let greedy = CallerId::of_key(b"k").owner();
        let mut bodies: Vec<_> = (0..8).map(|_| budget.account(Some(greedy))).collect();
        let taken = bodies.iter_mut().filter_map(|body| body.grow_to(MIB).ok()).count();
        assert_eq!(taken, 4);
        let mut other = budget.account(Some(unnamed));
        other.grow_to(2 * MIB).unwrap();
        assert!(refused(&other.grow_to(3 * MIB)));
        drop(bodies);
        other.grow_to(4 * MIB).unwrap();
        drop(other);
        assert_eq!(budget.0.held.lock().by_owner.len(), 0);
    }

    #[test]
    fn what_fits_stays_within_the_limit_and_the_share() {
        for (limit, total, of_caller, more, expected) in [
            (10, 0, None, 10, true),
            (10, 0, None, 11, false),
            (10, 11, None, 0, false),
            (10, 4, Some(0), 3, true),
            (10, 4, Some(0), 4, false),
            (10, 4, Some(4), 1, true),
            (10, 4, Some(4), 2, false),
            (10, 4, Some(usize::MAX), 1, false),
        ] {
            assert_eq!(fits(limit, total, of_caller, more), expected, "{limit} {total} {of_caller:?} {more}");
        }
    }
}
