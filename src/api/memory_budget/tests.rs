use super::*;
use crate::api::auth::CallerId;

const MIB: usize = 1 << 20;

fn refused(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::Overloaded { cause: Overload::Memory, .. }))
}

#[test]
fn a_body_is_counted_as_it_comes_and_given_back_at_its_end() {
    let budget = MemoryBudget::new(4 * MIB as u64, true);
    let mut first = budget.account(None);
    first.try_grow_to(UNCOUNTED).unwrap();
    assert_eq!(budget.held(), 0);
    first.try_grow_to(UNCOUNTED + 1).unwrap();
    assert_eq!(budget.held(), STEP);
    first.try_grow_to(3 * MIB).unwrap();
    let mut second = budget.account(None);
    assert!(refused(&second.try_grow_to(2 * MIB)));
    second.try_grow_to(MIB).unwrap();
    drop(first);
    assert_eq!(budget.held(), MIB);
    second.change_to(2 * MIB, Duration::ZERO).unwrap();
    assert_eq!(budget.held(), 2 * MIB);
    second.change_to(1, Duration::ZERO).unwrap();
    assert_eq!(budget.held(), 0);
    let too_large = Error::BodyTooLarge { limit: 4 * MIB as u64, setting: SETTING };
    assert_eq!(second.try_grow_to(4 * MIB + 1), Err(too_large), "it would never fit");
}

#[test]
fn one_caller_leaves_room_for_another_however_much_it_sends() {
    let budget = MemoryBudget::new(8 * MIB as u64, true);
    let headers = [(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer made-up"))];
    let unnamed = CallerId::of(&headers.into_iter().collect(), None, None).unwrap().owner();
    assert_eq!(unnamed, CallerId::public().owner(), "whom nobody verified has no share of its own");
    let greedy = CallerId::of_key(b"k").owner();
    let mut bodies: Vec<_> = (0..8).map(|_| budget.account(Some(greedy))).collect();
    let taken = bodies.iter_mut().filter_map(|body| body.try_grow_to(MIB).ok()).count();
    assert_eq!(taken, 4);
    let mut other = budget.account(Some(unnamed));
    other.try_grow_to(2 * MIB).unwrap();
    assert!(refused(&other.try_grow_to(3 * MIB)));
    drop(bodies);
    other.try_grow_to(4 * MIB).unwrap();
    drop(other);
    assert_eq!(budget.0.held.lock().by_owner.len(), 0);
}

#[test]
fn an_upload_that_stalled_makes_room_and_one_that_comes_does_not() {
    let budget = MemoryBudget::new(4 * MIB as u64, true);
    let seconds = Duration::from_secs;
    let mut uploads = [(); 4].map(|()| budget.account(None));
    for (upload, began) in uploads.iter_mut().zip(0..) {
        upload.receive(MIB - STEP, MIB, seconds(began)).unwrap();
    }
    let [first, second, third, fourth] = &mut uploads;
    first.receive(MIB, MIB, seconds(4)).unwrap();
    third.arrive();
    let context = Context::from_waker(std::task::Waker::noop());
    let mut other = budget.account(None);
    assert!(refused(&other.receive(STEP * 4, MIB, seconds(5))));
    // The first has just come on, the third is complete, and the fourth need not leave as well.
    assert!(matches!(second.poll_given_up(&context), Poll::Ready(Error::Overloaded { .. })));
    assert!([first, third, &mut *fourth].iter().all(|upload| upload.poll_given_up(&context).is_pending()));
    *second = HeldBytes::default();
    other.receive(STEP * 4, MIB, seconds(5)).unwrap();
    drop(other);
    drop(uploads);
    assert!(budget.0.held.lock().holders.is_empty());
    assert_eq!(budget.held(), 0);
}

#[test]
fn whoever_fills_a_share_has_only_its_own_uploads_given_up() {
    let budget = MemoryBudget::new(8 * MIB as u64, true);
    let (greedy, honest) = (CallerId::of_key(b"k").owner(), CallerId::public().owner());
    let [mut stalled, mut more] = [(); 2].map(|()| budget.account(Some(greedy)));
    let mut slow = budget.account(Some(honest));
    slow.receive(MIB, MIB, Duration::ZERO).unwrap();
    stalled.receive(3 * MIB, 0, Duration::ZERO).unwrap();
    let context = Context::from_waker(std::task::Waker::noop());
    assert!(refused(&more.receive(MIB, 0, STALLED_AFTER)));
    assert!(stalled.poll_given_up(&context).is_ready() && slow.poll_given_up(&context).is_pending());
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

#[test]
fn what_nobody_waits_for_and_what_those_hold_who_hold_more_makes_room_in_a_share() {
    let (asker, greedy) = (CallerId::of_key(b"a").owner(), CallerId::of_key(b"g").owner());
    for holder in [None, Some(greedy)] {
        let budget = MemoryBudget::new(8 * MIB as u64, true);
        let mut stalled = budget.account(holder);
        let end = Arc::new(UploadEnd::new(true));
        let reclaim = Arc::downgrade(&end) as Weak<dyn Reclaim>;
        stalled.hold(4 * MIB, 4 * MIB, Duration::ZERO, &reclaim).unwrap();
        let mut upload = budget.account(Some(asker));
        assert!(refused(&upload.receive(3 * MIB, 3 * MIB, STALLED_AFTER)));
        assert!(end.is_given_up(), "{holder:?}");
    }
}

#[test]
fn where_no_request_may_wake_another_a_stalled_upload_ends_with_its_next_piece() {
    let budget = MemoryBudget::new(MIB as u64, false);
    let [mut stalled, mut other] = [(); 2].map(|()| budget.account(None));
    stalled.receive(MIB / 2, MIB, Duration::ZERO).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = std::task::Waker::from(Arc::clone(&woken));
    assert!(stalled.poll_given_up(&Context::from_waker(&waker)).is_pending());
    assert!(refused(&other.receive(MIB, MIB, STALLED_AFTER)));
    assert!(!woken.0.load(std::sync::atomic::Ordering::Relaxed));
    assert!(refused(&stalled.receive(MIB / 2 + 1, MIB, STALLED_AFTER)));
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
