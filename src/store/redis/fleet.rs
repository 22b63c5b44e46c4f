//! The fleet state in Redis: everything in one hash slot, each step one script.
//!
//! Times are by the clock of Redis, so replicas need no common clock. The stats of a host are one value, which is
//! replaced only if it still equals the value that the change began with. Leases and tickets expire.

use std::{sync::Arc, time::Duration};

use super::{RedisCommands, RedisStore, RedisValue, milliseconds_text, script::script};
use crate::{
    fleet::{
        HostStats, Inventory, Scope,
        local::{DECISIONS, FACTS_LIMIT, SERVED, SERVED_MOST},
        snapshot::{BUDGET_WINDOW, Claim, FleetSnapshot, Flow, LEASE, Lease, RetryBudget, TICKET, Ticket},
    },
    platform::{MaybeSend, MaybeSync},
    store::{FleetState, InventoryStore, StoreError, StoreResult},
};

/// The separator of the fields of a lease or a ticket.
const SEPARATOR: char = '\u{1f}';
/// How often a change of stats is retried on newer stats. Each retry means that another change came first, so that many
/// simultaneous changes all succeed.
const TRIES: usize = 32;

/// How long stats and decisions are kept after their last change.
const KEPT: Duration = Duration::from_hours(24);
/// The most hosts whose inventory is kept.
const INVENTORIES: usize = 256;
/// How long inventories are kept; longer than any outage.
const INVENTORY: Duration = Duration::from_hours(24 * 30);

/// The file of each script documents its keys, its arguments and its reply.
const SNAPSHOT: &[u8] = script!("scripts/fleet_time.lua", "scripts/snapshot.lua");
const CLAIM: &[u8] = script!("scripts/fleet_time.lua", "scripts/claim.lua");
const RENEW: &[u8] = script!("scripts/fleet_time.lua", "scripts/renew.lua");
const QUEUE: &[u8] = script!("scripts/fleet_time.lua", "scripts/queue.lua");
const UPDATE: &[u8] = script!("scripts/fleet_time.lua", "scripts/update_stats.lua");
const PUT_INVENTORY: &[u8] = script!("scripts/put_inventory.lua");

/// Which time limit applies to a script.
#[derive(Clone, Copy)]
enum Pace {
    Ask,
    Keep,
}

/// An iterator over the elements of a reply.
struct Elements {
    script: &'static str,
    values: std::vec::IntoIter<RedisValue>,
}

impl Elements {
    fn bytes(&mut self) -> StoreResult<Vec<u8>> {
        match self.values.next() {
            Some(RedisValue::Bytes(bytes)) => Ok(bytes),
            Some(RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_)) | None => {
                Err(StoreError::UnexpectedReply(self.script))
            }
        }
    }

    /// A text. Everything that Paddock writes is UTF-8.
    fn text(&mut self) -> StoreResult<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    fn number(&mut self) -> StoreResult<u64> {
        match self.values.next() {
            Some(RedisValue::Integer(number)) => Ok(u64::try_from(number).unwrap_or_default()),
            Some(RedisValue::Nil | RedisValue::Bytes(_) | RedisValue::Status(_)) | None => {
                Err(StoreError::UnexpectedReply(self.script))
            }
        }
    }

    /// A time in milliseconds, as text; a fraction or exponent is ignored.
    fn time(&mut self) -> StoreResult<Duration> {
        let text = self.text()?;
        Ok(Duration::from_millis(text.parse().unwrap_or_default()))
    }
}

/// What a lease is marked with: `c` where the model must be loaded, then `t` for the trial of a host or `l` for that of a
/// lane.
fn marks(cold: bool, trial: Option<Scope>) -> &'static str {
    match (cold, trial) {
        (false, None) => "",
        (true, None) => "c",
        (false, Some(Scope::Host)) => "t",
        (true, Some(Scope::Host)) => "ct",
        (false, Some(Scope::Lane)) => "l",
        (true, Some(Scope::Lane)) => "cl",
    }
}

fn lease_text(lease: &Lease) -> String {
    let marks = marks(lease.cold, lease.trial);
    let began = lease.began.as_millis().to_string();
    [&*lease.host, &*lease.lane, &*lease.id, marks, &*began].join(&*SEPARATOR.to_string())
}

fn lease(text: &str) -> Option<Lease> {
    let fields: Vec<_> = text.split(SEPARATOR).collect();
    let [host, lane, id, marks, began] = <[&str; 5]>::try_from(fields).ok()?;
    Some(Lease {
        host: host.into(),
        lane: lane.into(),
        id: id.into(),
        began: Duration::from_millis(began.parse().ok()?),
        cold: marks.contains('c'),
        trial: match marks.trim_start_matches('c') {
            "t" => Some(Scope::Host),
            "l" => Some(Scope::Lane),
            _ => None,
        },
    })
}

fn ticket_text(ticket: &Ticket) -> String {
    let Ticket { id, lane, host, caller, session, since, caller_served: _, session_served: _ } = ticket;
    let since = since.as_millis().to_string();
    [&**id, lane, host, caller, session, &*since].join(&*SEPARATOR.to_string())
}

fn ticket(text: &str, [caller_served, session_served]: [Duration; 2]) -> Option<Ticket> {
    let fields: Vec<_> = text.split(SEPARATOR).collect();
    let [id, lane, host, caller, session, since] = <[&str; 6]>::try_from(fields).ok()?;
    let since = Duration::from_millis(since.parse().ok()?);
    let [id, lane, host, caller, session] = [id, lane, host, caller, session].map(Arc::from);
    Some(Ticket { id, lane, host, caller, session, since, caller_served, session_served })
}

impl<C: RedisCommands> RedisStore<C> {
    fn fleet_key(&self, kind: &str) -> String {
        format!("{}:{{fleet}}:1:{kind}", self.prefix)
    }

    /// Runs a script with the keys of these kinds.
    async fn script(
        &self,
        (script, name, pace): (&'static [u8], &'static str, Pace),
        kinds: &[&str],
        arguments: &[&[u8]],
    ) -> StoreResult<Elements> {
        let keys: Vec<_> = kinds.iter().map(|kind| self.fleet_key(kind)).collect();
        let count = keys.len().to_string();
        let mut all: Vec<&[u8]> = vec![script, count.as_bytes()];
        all.extend(keys.iter().map(String::as_bytes));
        all.extend(arguments);
        let values = match pace {
            Pace::Ask => self.ask("EVAL", &all).await?,
            Pace::Keep => self.keep("EVAL", &all).await?,
        };
        Ok(Elements { script: name, values: values.into_iter() })
    }

    async fn queue(&self, pace: Pace, come: &str, gone: &[&str]) -> StoreResult<()> {
        let hold = milliseconds_text(TICKET);
        let mut arguments = vec![hold.as_bytes(), come.as_bytes()];
        arguments.extend(gone.iter().map(|id| id.as_bytes()));
        self.script((QUEUE, "the queue", pace), &["tickets", "leases"], &arguments).await?;
        Ok(())
    }
}

impl<C: RedisCommands> FleetState for RedisStore<C> {
    async fn snapshot(&self) -> StoreResult<FleetSnapshot> {
        let window = BUDGET_WINDOW.as_secs().to_string();
        let kinds = ["facts", "leases", "tickets", "served", "budget"];
        let mut reply =
            self.script((SNAPSHOT, "the ledger", Pace::Ask), &kinds, &[window.as_bytes()]).await?;
        let mut snapshot = FleetSnapshot { now: reply.time()?, ..FleetSnapshot::default() };
        for _ in 0..reply.number()? / 2 {
            let (host, stats) = (reply.text()?, reply.bytes()?);
            // What another version wrote is as good as nothing.
            snapshot.stats.insert(host, Arc::new(HostStats::from_json(&stats).unwrap_or_default()));
        }
        for _ in 0..reply.number()? {
            snapshot.leases.extend(lease(&reply.text()?));
        }
        for _ in 0..reply.number()? {
            let text = reply.text()?;
            let served = [reply.time()?, reply.time()?];
            snapshot.tickets.extend(ticket(&text, served));
        }
        snapshot.retries = RetryBudget { requests: reply.number()?, retries: reply.number()? };
        Ok(snapshot)
    }

    async fn claim(&self, claim: &Claim<'_>) -> StoreResult<Option<Lease>> {
        let Claim { id, lane, slots, flow: Flow { caller, session }, is_retry, reason } = claim;
        let (hold, window) = (milliseconds_text(LEASE), BUDGET_WINDOW.as_secs().to_string());
        let kind = if *is_retry { "r" } else { "q" };
        let (served, decisions, kept, most) = (
            milliseconds_text(SERVED),
            DECISIONS.to_string(),
            milliseconds_text(KEPT),
            SERVED_MOST.to_string(),
        );
        let fixed = [
            id,
            lane,
            caller,
            session,
            kind,
            reason,
            &*hold,
            &*window,
            &*served,
            &*decisions,
            &*kept,
            &*most,
        ];
        let mut arguments: Vec<&[u8]> = fixed.into_iter().map(str::as_bytes).collect();
        let limits: Vec<_> = slots.iter().map(|slot| slot.limit.to_string()).collect();
        for (slot, limit) in slots.iter().zip(&limits) {
            let marks = marks(slot.cold, slot.trial);
            arguments.extend([slot.host.as_bytes(), limit.as_bytes(), marks.as_bytes()]);
        }
        let kinds = ["leases", "tickets", "served", "budget", "decisions"];
        let mut reply = self.script((CLAIM, "a claim", Pace::Ask), &kinds, &arguments).await?;
        let (number, began) = (reply.number()?, reply.time()?);
        let slot = usize::try_from(number).ok().and_then(|number| slots.get(number.checked_sub(1)?));
        Ok(slot.map(|slot| Lease {
            host: slot.host.clone(),
            lane: (*lane).into(),
            id: (*id).into(),
            began,
            cold: slot.cold,
            trial: slot.trial,
        }))
    }

    async fn renew(&self, lease: &Lease) -> StoreResult<()> {
        let (lease, hold) = (lease_text(lease), milliseconds_text(LEASE));
        self.script((RENEW, "a renewal", Pace::Keep), &["leases"], &[lease.as_bytes(), hold.as_bytes()])
            .await?;
        Ok(())
    }

    async fn enter(&self, ticket: &Ticket, displaced: Option<&str>) -> StoreResult<()> {
        let gone: Vec<_> = displaced.into_iter().chain([&*ticket.id]).collect();
        self.queue(Pace::Ask, &ticket_text(ticket), &gone).await
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        self.queue(Pace::Keep, "", &[id]).await
    }

    async fn update(
        &self,
        host: &str,
        (known, mut now): (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + MaybeSend + MaybeSync,
    ) -> StoreResult<()> {
        let released = released.map(lease_text).unwrap_or_default();
        let (mut stats, mut old) = (known.clone(), known.to_json());
        if *known == HostStats::default() {
            old.clear();
        }
        let (kept, most) = (milliseconds_text(KEPT), FACTS_LIMIT.to_string());
        for _ in 0..TRIES {
            change(&mut stats, now);
            let new = stats.to_json();
            let arguments =
                [host.as_bytes(), &old, &new, released.as_bytes(), kept.as_bytes(), most.as_bytes()];
            let mut reply =
                self.script((UPDATE, "an update", Pace::Keep), &["facts", "leases"], &arguments).await?;
            if reply.number()? == 1 {
                return Ok(());
            }
            old = reply.bytes()?;
            now = reply.time()?;
            stats = HostStats::from_json(&old).unwrap_or_default();
        }
        // So much is learnt of this host right now that one more fact would change little.
        Ok(())
    }

    async fn next_sequence(&self) -> StoreResult<u64> {
        let key = format!("{}:turn:1", self.prefix);
        let reply = self.ask("INCR", &[key.as_bytes()]).await?;
        match reply.first() {
            Some(RedisValue::Integer(count)) => {
                Ok(u64::try_from(count.saturating_sub(1)).unwrap_or_default())
            }
            Some(RedisValue::Nil | RedisValue::Status(_) | RedisValue::Bytes(_)) | None => {
                Err(StoreError::UnexpectedReply("INCR"))
            }
        }
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        let key = self.fleet_key("decisions");
        let reply = self.keep("LRANGE", &[key.as_bytes(), b"0", b"-1"]).await?;
        Ok(reply
            .into_iter()
            .filter_map(|value| match value {
                RedisValue::Bytes(bytes) => String::from_utf8(bytes).ok(),
                RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
            })
            .collect())
    }
}

impl<C: RedisCommands> InventoryStore for RedisStore<C> {
    async fn load_inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        let key = self.fleet_key("inventory");
        let mut reply =
            Elements { script: "HGETALL", values: self.ask("HGETALL", &[key.as_bytes()]).await?.into_iter() };
        let mut inventories = Vec::new();
        while reply.values.len() > 1 {
            let (host, inventory) = (reply.text()?, reply.bytes()?);
            inventories.extend(Inventory::from_json(&inventory).map(|inventory| (host, inventory)));
        }
        Ok(inventories)
    }

    async fn put_inventory(&self, host: &str, inventory: &Inventory) -> StoreResult<()> {
        let (inventory, limit, kept) =
            (inventory.to_json(), INVENTORIES.to_string(), milliseconds_text(INVENTORY));
        let arguments = [host.as_bytes(), &inventory, limit.as_bytes(), kept.as_bytes()];
        self.script((PUT_INVENTORY, "an inventory", Pace::Keep), &["inventory"], &arguments).await?;
        Ok(())
    }

    async fn lead_refresh(&self, time: Duration) -> StoreResult<bool> {
        let (key, time) = (self.fleet_key("refresh"), milliseconds_text(time));
        let reply = self.keep("SET", &[key.as_bytes(), b"1", b"NX", b"PX", time.as_bytes()]).await?;
        Ok(matches!(reply.first(), Some(RedisValue::Status(_))))
    }
}
