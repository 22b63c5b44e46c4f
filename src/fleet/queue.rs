//! The order of the queue: callers take turns, then each caller's sessions, and within a session the oldest request is
//! first.
//!
//! The caller that got its last slot longest ago is next, so a busy caller or session delays only itself. When the
//! queue is full, the caller with the most tickets loses its newest ticket to a caller with fewer; for that all callers whom
//! nobody verified are one, so that a caller that is made up displaces nobody's.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Ticket,
    plan::Plan,
    snapshot::{FleetView, UNVERIFIED},
};

/// What happens to a request that must wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueDecision {
    /// Its ticket enters the queue.
    Enter,
    /// Its ticket replaces the ticket with this id.
    Displace(String),
    /// The queue has no room for it.
    Full,
}

/// Whose share of the queue a caller uses.
fn share(caller: &str) -> &str {
    if caller.starts_with(UNVERIFIED) { UNVERIFIED } else { caller }
}

/// Whether a request of `caller` may enter a queue of at most `limit` tickets.
pub fn entry(tickets: &[Ticket], caller: &str, limit: usize) -> QueueDecision {
    if tickets.len() < limit {
        return QueueDecision::Enter;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for ticket in tickets {
        *counts.entry(share(&ticket.caller)).or_default() += 1;
    }
    let own = counts.get(share(caller)).copied().unwrap_or_default();
    let greediest = counts.into_iter().max_by_key(|(_, count)| *count);
    let Some((greedy, _)) = greediest.filter(|(_, count)| *count > own + 1) else {
        return QueueDecision::Full;
    };
    let newest = tickets
        .iter()
        .filter(|ticket| share(&ticket.caller) == greedy)
        .max_by_key(|ticket| (ticket.since, &ticket.id));
    newest.map_or(QueueDecision::Full, |newest| QueueDecision::Displace(newest.id.to_string()))
}

/// Whether the ticket `mine` is next for one of the plan's slots: fewer competing tickets are ahead of it than slots
/// are free. The ticket need not be in the queue yet.
pub fn is_next(view: &FleetView, plan: &Plan, mine: &Ticket) -> bool {
    let slots = plan.slots();
    let free = slots.iter().map(|slot| {
        let known = view.hosts.iter().find(|known| known.host.url() == &*slot.host);
        slot.limit.saturating_sub(known.map_or(0, |known| known.in_flight(&mine.lane)))
    });
    let free = free.sum();
    let mut hosts: Vec<_> = slots.iter().map(|slot| &*slot.host).collect();
    hosts.extend(plan.rivals());
    ahead(&view.tickets, mine, &hosts, free) < free
}

/// How many tickets in the lane of `mine` that wait for one of `hosts` are ahead of it, counted up to `enough`.
pub(crate) fn ahead(tickets: &[Ticket], mine: &Ticket, hosts: &[&str], enough: u64) -> u64 {
    if enough == 0 {
        return 0;
    }
    let rivals = tickets.iter().filter(|ticket| ticket.lane == mine.lane && ticket.id != mine.id);
    let mut rivals: Vec<_> = rivals.filter(|ticket| hosts.contains(&&*ticket.host)).collect();
    // A turn that is taken during this count is later than all earlier ones.
    let mut turn = Duration::MAX / 2;
    let mut callers: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut sessions: BTreeMap<(&str, &str), Duration> = BTreeMap::new();
    for count in 0..enough {
        let key = |ticket: &Ticket| {
            let caller = callers.get(&*ticket.caller).copied().unwrap_or(ticket.caller_served);
            let session = sessions.get(&(&*ticket.caller, &*ticket.session)).copied();
            (caller, session.unwrap_or(ticket.session_served), ticket.since)
        };
        let next = rivals.iter().enumerate().min_by_key(|(_, ticket)| (key(ticket), &ticket.id));
        let Some((index, next)) = next.filter(|(_, next)| (key(next), &next.id) < (key(mine), &mine.id))
        else {
            return count;
        };
        turn += Duration::from_nanos(1);
        callers.insert(&next.caller, turn);
        sessions.insert((&next.caller, &next.session), turn);
        rivals.swap_remove(index);
    }
    enough
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(number: u64, caller: &str, session: &str) -> Ticket {
        Ticket {
            id: format!("{number:03}").into(),
            lane: "m".into(),
            host: "h".into(),
            caller: caller.into(),
            session: session.into(),
            since: Duration::from_secs(number),
            caller_served: Duration::ZERO,
            session_served: Duration::ZERO,
        }
    }

    /// The ids of the tickets in the order in which they get slots.
    fn order(tickets: &[Ticket]) -> Vec<String> {
        let mut order: Vec<_> =
            tickets.iter().map(|mine| (ahead(tickets, mine, &["h"], 100), mine.id.clone())).collect();
        order.sort();
        order.into_iter().map(|(_, id)| id.to_string()).collect()
    }

    #[test]
    fn callers_take_turns_and_within_one_its_sessions() {
        let tickets = [
            ticket(1, "hot", "a"),
            ticket(2, "hot", "a"),
            ticket(3, "hot", "b"),
            ticket(4, "cool", "c"),
            ticket(5, "hot", "b"),
            ticket(6, "cool", "c"),
        ];
        assert_eq!(order(&tickets), ["001", "004", "003", "006", "002", "005"]);
    }

    #[test]
    fn who_was_served_longest_ago_is_next() {
        let mut tickets = [ticket(1, "hot", "a"), ticket(2, "cool", "b")];
        tickets[0].caller_served = Duration::from_secs(9);
        assert_eq!(order(&tickets), ["002", "001"]);
        tickets[1].caller_served = Duration::from_secs(10);
        assert_eq!(order(&tickets), ["001", "002"]);
    }

    #[test]
    fn who_waits_for_another_host_or_model_is_no_rival() {
        let tickets =
            [ticket(1, "a", ""), Ticket { host: "other".into(), ..ticket(2, "b", "") }, ticket(3, "c", "")];
        assert_eq!(ahead(&tickets, &tickets[2], &["h"], 100), 1);
        assert_eq!(ahead(&tickets, &tickets[2], &["h", "other"], 100), 2);
        assert_eq!(ahead(&tickets, &tickets[2], &["h", "other"], 1), 1, "as far as it matters");
        let lane = Ticket { lane: "n".into(), ..ticket(3, "c", "") };
        assert_eq!(ahead(&tickets, &lane, &["h"], 100), 0);
    }

    #[test]
    fn a_full_queue_makes_room_for_whoever_waits_less() {
        let tickets: Vec<_> =
            (1..=3).map(|number| ticket(number, "hot", "a")).chain([ticket(4, "cool", "b")]).collect();
        assert_eq!(entry(&tickets, "new", 5), QueueDecision::Enter);
        assert_eq!(entry(&tickets, "new", 4), QueueDecision::Displace("003".into()));
        assert_eq!(entry(&tickets, "cool", 4), QueueDecision::Displace("003".into()));
        assert_eq!(entry(&tickets, "hot", 4), QueueDecision::Full);
        assert_eq!(entry(&tickets[2..], "new", 2), QueueDecision::Full, "one each is fair");
        assert_eq!(entry(&[], "new", 0), QueueDecision::Full);
        // Whom nobody verified has one share with all such callers, and gives way to the others.
        let made_up: Vec<_> = (1..=4).map(|number| ticket(number, &format!("?{number}"), "")).collect();
        assert_eq!(entry(&made_up, "?new", 4), QueueDecision::Full);
        assert_eq!(entry(&made_up, "known", 4), QueueDecision::Displace("004".into()));
        assert_eq!(entry(&tickets, "?new", 4), QueueDecision::Displace("003".into()));
    }
}
