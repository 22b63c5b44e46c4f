//! The bytes that this process holds for its clients: request bodies that arrive, wait, or may be sent once more; replies
//! that are not read yet; and what is kept of answers for requests that join later.
//!
//! Nothing here waits. What finds no room is refused at once, so that no two requests hold one half of their bodies each and
//! wait for room for the other half. What has stalled then makes room for whoever comes next.

mod holder;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

pub(crate) use holder::Reclaim;
use holder::UploadEnd;

use super::{
    auth::Owner,
    error::{Error, Overload},
};
use crate::platform::Locked;

/// A body or a reply up to this length counts nothing, because its connection's buffers are as large.
pub(crate) const UNCOUNTED: usize = 16 << 10;
/// The step in which a body that arrives is counted, so that not every piece of it takes the lock.
const STEP: usize = 64 << 10;
/// How long an upload or a reply may take for a step before it has stalled, and makes room when there is none.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// The setting that bounds the budget.
const SETTING: &str = "MEMORY_BUDGET";
/// When a client whose body found no room should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A number of bytes that all requests of a process share. Clones share it.
#[derive(Clone)]
pub(crate) struct MemoryBudget(Arc<Pool>);

struct Pool {
    limit: usize,
    wakes_other_requests: bool,
    held: Locked<Held>,
}

/// What is held, in bytes.
#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_owner: HashMap<Owner, usize>,
    /// Those who can give their bytes back before they are done with them.
    holders: HashMap<u64, Holder>,
    holders_so_far: u64,
}

/// One who can give bytes back before they are done with.
#[derive(Debug)]
struct Holder {
    bytes: usize,
    owner: Option<Owner>,
    /// When it last came on; zero for one that can always make room.
    progressed: Duration,
    reclaim: Weak<dyn Reclaim>,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, of which nothing is held, on a platform where one request may wake another, or not.
    pub(crate) fn new(limit: u64, wakes_other_requests: bool) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self(Arc::new(Pool { limit, wakes_other_requests, held: Locked::default() }))
    }

    /// The account of one request, which holds nothing yet. `owner` is whose share it uses; `None` where there is nobody to
    /// share with.
    pub(crate) fn account(&self, owner: Option<Owner>) -> HeldBytes {
        HeldBytes(Some(Account { pool: Arc::clone(&self.0), owner, counted: 0, number: None, upload: None }))
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

fn no_room() -> Error {
    Error::Overloaded { cause: Overload::Memory, retry_after: RETRY_AFTER }
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

    /// Reclaims what has stalled, what stalled first before the rest, until it is enough for `more` bytes. Where the owner's
    /// share alone is full, only what is nobody's, its own, and what those hold who hold more makes room. Some give their
    /// bytes back only when their tasks notice.
    fn make_room(&self, owner: Option<Owner>, more: usize, now: Duration) {
        let mut held = self.held.lock();
        let of = |owner: Owner| held.by_owner.get(&owner).copied().unwrap_or(0);
        let of_owner = owner.map(of);
        // What `fits` asks for.
        let needed = more.saturating_add(of_owner.map_or(0, |of_owner| of_owner.saturating_add(more)));
        let missing = held.total.saturating_add(needed).saturating_sub(self.limit);
        let is_full = held.total.saturating_add(more) > self.limit;
        let may_lose = |other: Option<Owner>| {
            is_full
                || other == owner
                || other.is_none_or(|other| of_owner.is_some_and(|ours| of(other) > ours))
        };
        let mut stalled: Vec<_> = held
            .holders
            .iter()
            .filter(|(_, holder)| may_lose(holder.owner))
            .filter(|(_, holder)| now.saturating_sub(holder.progressed) >= STALLED_AFTER)
            .map(|(number, holder)| (holder.progressed, *number))
            .collect();
        stalled.sort_unstable();
        let (mut freed, mut reclaimed) = (0, Vec::new());
        for (_, number) in stalled {
            if freed >= missing {
                break;
            }
            if let Some(holder) = held.holders.remove(&number) {
                freed += holder.bytes;
                reclaimed.push(holder.reclaim);
            }
        }
        // Whoever is told may lock what it holds, and counts in here while that is locked.
        drop(held);
        reclaimed.iter().filter_map(Weak::upgrade).for_each(|holder| holder.reclaim());
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
    /// Its number among those who can give bytes back.
    number: Option<u64>,
    /// As long as a counted body arrives.
    upload: Option<Arc<UploadEnd>>,
}

impl HeldBytes {
    /// Counts a body that still arrives, of `bytes` by now and at least `expected` in the end.
    ///
    /// # Errors
    /// Those of [`Self::try_grow_to`].
    pub(crate) fn receive(&mut self, bytes: usize, expected: usize, now: Duration) -> Result<(), Error> {
        let Some(account) = &mut self.0 else { return Ok(()) };
        if account.upload.as_ref().is_some_and(|end| end.is_given_up()) {
            return Err(no_room());
        }
        if bytes <= UNCOUNTED.max(account.counted) {
            return Ok(());
        }
        let wakes = account.pool.wakes_other_requests;
        let end = Arc::clone(account.upload.get_or_insert_with(|| Arc::new(UploadEnd::new(wakes))));
        self.hold(bytes, expected, now, &(Arc::downgrade(&end) as Weak<dyn Reclaim>))
    }

    /// Counts `bytes` by now, and at least `expected` in the end, of which `holder` can give back what is left. What has
    /// stalled makes room for the next one where there is none.
    ///
    /// # Errors
    /// Those of [`Self::try_grow_to`].
    pub(crate) fn hold(
        &mut self,
        bytes: usize,
        expected: usize,
        now: Duration,
        holder: &Weak<dyn Reclaim>,
    ) -> Result<(), Error> {
        self.grow_or_reclaim(bytes, expected, now)?;
        if let Some(account) = &mut self.0 {
            account.progress(now, holder);
        }
        Ok(())
    }

    /// Counts `bytes` by now. What has stalled makes room for the next one where there is none.
    ///
    /// # Errors
    /// Those of [`Self::try_grow_to`].
    pub(crate) fn grow_to(&mut self, bytes: usize, now: Duration) -> Result<(), Error> {
        self.grow_or_reclaim(bytes, bytes, now)
    }

    fn grow_or_reclaim(&mut self, bytes: usize, expected: usize, now: Duration) -> Result<(), Error> {
        let result = self.try_grow_to(bytes);
        let (Err(Error::Overloaded { .. }), Some(account)) = (&result, &self.0) else { return result };
        let more = bytes.max(expected).saturating_sub(account.counted);
        account.pool.make_room(account.owner, more, now);
        // Some give their bytes back at once.
        self.try_grow_to(bytes)
    }

    /// Counts `bytes` by now, of which `holder` can always give back some.
    ///
    /// # Errors
    /// Those of [`Self::try_grow_to`]; nothing else is reclaimed.
    pub(crate) fn keep(
        &mut self,
        bytes: usize,
        holder: impl FnOnce() -> Weak<dyn Reclaim>,
    ) -> Result<(), Error> {
        let before = self.counted();
        self.try_grow_to(bytes)?;
        if let Some(account) = self.0.as_mut().filter(|account| account.counted > before) {
            account.progress(Duration::ZERO, &holder());
        }
        Ok(())
    }

    /// Notes that what is held has come on.
    pub(crate) fn note_progress(&self, now: Duration) {
        let Some((account, number)) = self.0.as_ref().and_then(|account| Some((account, account.number?)))
        else {
            return;
        };
        if let Some(holder) = account.pool.held.lock().holders.get_mut(&number) {
            holder.progressed = now;
        }
    }

    /// Resolves with the refusal when the upload is given up, because it has stalled and there is no room for another.
    pub(crate) fn poll_given_up(&self, context: &Context<'_>) -> Poll<Error> {
        match self.0.as_ref().and_then(|account| account.upload.as_ref()) {
            Some(end) => end.poll(context).map(|()| no_room()),
            None => Poll::Pending,
        }
    }

    /// Notes that the body has arrived, so that it no longer makes room.
    pub(crate) fn arrive(&mut self) {
        if let Some(account) = &mut self.0 {
            account.upload = None;
            account.leave();
        }
    }

    /// Gives back what is counted beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        if let Some(account) = &mut self.0 {
            account.give_back(account.counted.saturating_sub(bytes));
        }
    }

    /// How many bytes are counted.
    pub(crate) fn counted(&self) -> usize {
        self.0.as_ref().map_or(0, |account| account.counted)
    }

    /// Counts `bytes` by now.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is no room for them, and [`Error::BodyTooLarge`] when there never will be.
    pub(crate) fn try_grow_to(&mut self, bytes: usize) -> Result<(), Error> {
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
        Err(no_room())
    }

    /// Counts a body of `bytes` instead of the one that was counted.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is no room for it.
    pub(crate) fn change_to(&mut self, bytes: usize, now: Duration) -> Result<(), Error> {
        self.shrink_to(if bytes <= UNCOUNTED { 0 } else { bytes });
        self.grow_to(bytes, now)
    }
}

impl Account {
    /// Notes that what is held has come on, and whom to tell when there is no room for others.
    fn progress(&mut self, now: Duration, reclaim: &Weak<dyn Reclaim>) {
        let mut held = self.pool.held.lock();
        if let Some(number) = self.number {
            // One that was told to make room is no longer there, and is about to notice.
            if let Some(holder) = held.holders.get_mut(&number) {
                (holder.bytes, holder.progressed) = (self.counted, now);
            }
        } else if self.counted > 0 {
            held.holders_so_far += 1;
            let number = held.holders_so_far;
            let (owner, reclaim) = (self.owner, Weak::clone(reclaim));
            held.holders.insert(number, Holder { bytes: self.counted, owner, progressed: now, reclaim });
            self.number = Some(number);
        }
    }

    /// Is no longer among those who can give bytes back.
    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.pool.held.lock().holders.remove(&number);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.pool.give_back(self.owner, bytes);
            self.counted -= bytes;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.leave();
        self.give_back(self.counted);
    }
}

impl fmt::Debug for HeldBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HeldBytes({})", self.counted())
    }
}

#[cfg(test)]
mod tests;
