//! What is learnt from attempt reports, as tables.

use super::*;
use crate::fleet::BreakerState;
use crate::fleet::prefix::PrefixReader;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn run(cold: bool, in_flight: u64) -> AttemptContext<'static> {
    let (prefixes, slots) = (Prefixes::none(), 4);
    AttemptContext {
        lane: "m",
        options: "",
        streams: true,
        in_flight,
        cold,
        affinity: 7,
        prompt: 0,
        prefixes,
        slots,
    }
}

fn report(
    run: AttemptContext<'static>,
    first_byte: u64,
    elapsed: u64,
    effect: HostEffect,
) -> AttemptReport<'static> {
    AttemptReport {
        run: Some(run),
        began: Duration::ZERO,
        first_byte: Some(Duration::from_millis(first_byte)),
        elapsed: Duration::from_millis(elapsed),
        effect,
    }
}

fn after(reports: &[AttemptReport<'static>]) -> HostStats {
    let mut stats = HostStats::default();
    for (second, report) in (100..).zip(reports) {
        stats.record_attempt(seconds(second), report, 0);
    }
    stats
}

#[test]
fn a_host_that_leaves_two_looks_unanswered_is_out_until_one_is_answered() {
    let mut stats = HostStats::default();
    stats.note_unheard(seconds(100), 0);
    assert_eq!(stats.breaker.cause(), None);
    stats.note_heard();
    stats.note_unheard(seconds(105), 0);
    assert_eq!(stats.breaker.cause(), None, "an answer in between");
    stats.note_unheard(seconds(110), 0);
    assert_eq!(stats.breaker.cause(), Some(Cause::Silent));
    assert_eq!(HostStats::from_json(&stats.to_json()), Some(stats.clone()));
    assert!(stats.awaits_look());
    stats.note_heard();
    assert_eq!((stats.breaker.cause(), stats.awaits_look()), (None, false));
}

#[test]
fn a_host_where_requests_end_well_is_slow_and_not_silent() {
    let mut stats = after(&[report(run(false, 1), 100, 2_000, HostEffect::Answered)]);
    for second in 101..115 {
        stats.note_unheard(seconds(second), 0);
        assert_eq!(stats.breaker.cause(), None, "{second}");
    }
    stats.note_unheard(seconds(116), 0);
    stats.note_unheard(seconds(117), 0);
    assert_eq!(stats.breaker.cause(), Some(Cause::Silent));
    // One that began before and ends well now shows it as well.
    stats.record_attempt(seconds(118), &report(run(false, 1), 100, 2_000, HostEffect::Answered), 0);
    stats.note_unheard(seconds(119), 0);
    assert_eq!(stats.breaker.cause(), None);
}

#[test]
fn a_host_that_begins_long_answers_is_slow_and_not_silent() {
    let mut stats = HostStats::default();
    stats.prove(seconds(100), "m", "");
    for second in 101..115 {
        stats.note_unheard(seconds(second), 0);
        assert_eq!(stats.breaker.cause(), None, "{second}");
    }
    stats.note_unheard(seconds(116), 0);
    stats.note_unheard(seconds(117), 0);
    assert_eq!(stats.breaker.cause(), Some(Cause::Silent));
    stats.prove(seconds(118), "m", "");
    stats.note_unheard(seconds(119), 0);
    assert_eq!(stats.breaker.cause(), None);
}

#[test]
fn a_cause_of_another_version_opens_nothing_and_the_rest_is_kept() {
    let mut stats = after(&[report(run(false, 1), 100, 2_000, HostEffect::Answered)]);
    stats.breaker.fail(seconds(110), Cause::Silent, None, 0);
    let known = String::from_utf8(stats.to_json()).unwrap();
    let unknown = known.replace(Cause::Silent.as_str(), "another");
    assert_ne!(known, unknown);
    let read = HostStats::from_json(unknown.as_bytes()).unwrap();
    assert_eq!((read.breaker.cause(), &read.lanes), (None, &stats.lanes));
}

#[test]
fn a_cold_start_tells_the_load_and_a_warm_one_the_service() {
    let stats = after(&[
        report(run(true, 1), 30_000, 32_000, HostEffect::Answered),
        report(run(false, 1), 100, 2_000, HostEffect::Answered),
    ]);
    let lane = stats.lane("m").unwrap();
    assert_eq!((lane.load, lane.service, lane.latency), (30_000, 2_000, 2_000));
    assert!(lane.is_proved("") && !lane.is_proved("num_ctx=1"));
}

#[test]
fn what_shares_a_host_is_not_counted_as_its_slowness() {
    let stats = after(&[report(run(false, 4), 100, 8_000, HostEffect::Answered)]);
    assert_eq!(stats.lane("m").unwrap().service, 2_000);
}

#[test]
fn latency_goes_up_at_once_and_down_slowly() {
    let answer = |elapsed| report(run(false, 1), 100, elapsed, HostEffect::Answered);
    let latency = |reports: &[AttemptReport<'static>]| after(reports).lane("m").unwrap().latency;
    assert_eq!(latency(&[answer(1_000), answer(9_000)]), 9_000);
    let later = latency(&[answer(9_000), answer(1_000)]);
    assert!((8_000..9_000).contains(&later), "{later}");
}

#[test]
fn the_percentile_forgets_old_samples_and_keeps_both_kinds_apart() {
    let answer = |first| report(run(false, 1), first, 10_000, HostEffect::Answered);
    let slow = after(&[answer(9_000); 5]);
    assert_eq!(slow.lane("m").unwrap().first_byte_p95(true), Some(Duration::from_secs(9)));
    let stats = after(&[&[answer(9_000); 5][..], &[answer(100); 20]].concat());
    let lane = stats.lane("m").unwrap();
    assert_eq!(lane.first_byte_p95(true), Some(Duration::from_millis(100)));
    assert_eq!((lane.first_byte_p95(false), lane.first_bytes.len()), (None, SAMPLES));
}

#[test]
fn the_last_four_prompts_are_known_until_the_model_is_loaded_anew() {
    let answer = |affinity, cold| {
        let run = AttemptContext { affinity, prompt: 2048, ..run(cold, 1) };
        AttemptReport {
            run: Some(run),
            began: seconds(if cold { 200 } else { 0 }),
            ..report(run, 300, 900, HostEffect::Answered)
        }
    };
    let stats = after(&[1, 2, 3, 4, 1, 5].map(|affinity| answer(affinity, false)));
    let lane = stats.lane("m").unwrap();
    assert_eq!(
        [1, 2, 3, 4, 5].map(|affinity| lane.known(affinity, 1, Prefixes::none()).continues),
        [true, false, true, true, true]
    );
    assert_eq!(lane.pace, 150);
    let stats = after(&[answer(1, false), answer(2, true)]);
    let knows = |affinity| stats.lane("m").unwrap().known(affinity, 1, Prefixes::none()).continues;
    assert!(!knows(1) && knows(2));
}

#[test]
fn one_answer_that_is_far_off_weighs_like_the_others() {
    let answer = |elapsed| report(run(false, 1), 100, elapsed, HostEffect::Answered);
    let stats = after(&[answer(9_000), answer(1_000), answer(2_000)]);
    assert!((3_900..4_100).contains(&stats.lane("m").unwrap().service));
}

#[test]
fn a_busy_host_takes_one_less_and_earns_it_back() {
    let busy = report(run(false, 4), 0, 10, HostEffect::Faulty(Cause::Busy, None));
    let well = report(run(false, 1), 10, 10, HostEffect::Answered);
    assert_eq!(after(&[busy]).lane("m").unwrap().limit, 3);
    // One report each second; five seconds raise the limit by one.
    assert_eq!(after(&[&[busy][..], &[well; 4]].concat()).lane("m").unwrap().limit, 3);
    assert_eq!(after(&[&[busy][..], &[well; 5]].concat()).lane("m").unwrap().limit, 4);
    let lone = AttemptReport { run: Some(run(false, 1)), ..busy };
    assert_eq!(after(&[lone]).lane("m").unwrap().limit, 1);
}

#[test]
fn what_an_answer_or_a_stream_did_opens_its_lane_and_what_a_connection_did_its_host() {
    for (cause, is_of_lane) in [
        (Cause::Unreachable, false),
        (Cause::Silent, false),
        (Cause::Gateway, false),
        (Cause::TimedOut, true),
        (Cause::Busy, true),
        (Cause::Protocol, true),
        (Cause::Failed, true),
        (Cause::Hung, true),
    ] {
        let fault = report(run(false, 1), 0, 10, HostEffect::Faulty(cause, None));
        let mut stats = after(&[fault]);
        let of_lane = |stats: &HostStats, lane| stats.lane(lane).and_then(|lane| lane.breaker.cause());
        assert_eq!(stats.breaker.cause(), (!is_of_lane).then_some(cause));
        assert_eq!(of_lane(&stats, "m"), is_of_lane.then_some(cause));
        assert_eq!(HostStats::from_json(&stats.to_json()).as_ref(), Some(&stats));

        // Another model's answer says something of the host, and nothing of this model.
        let other = AttemptContext { lane: "n", ..run(false, 1) };
        let well = |run| AttemptReport { began: seconds(101), ..report(run, 10, 10, HostEffect::Answered) };
        stats.record_attempt(seconds(102), &well(other), 0);
        assert_eq!((stats.breaker.cause(), of_lane(&stats, "m")), (None, is_of_lane.then_some(cause)));
        stats.record_attempt(seconds(103), &well(run(false, 1)), 0);
        assert_eq!(of_lane(&stats, "m"), None, "{cause:?}");
    }
}

#[test]
fn a_host_that_says_itself_that_it_is_busy_can_be_reached() {
    for (before, cause, is_closed) in [
        (Cause::Unreachable, Cause::Busy, true),
        (Cause::Gateway, Cause::Busy, false),
        (Cause::Unreachable, Cause::Protocol, false),
        (Cause::Unreachable, Cause::TimedOut, false),
    ] {
        let mut stats = HostStats::default();
        stats.breaker.fail(seconds(90), before, None, 0);
        let fault = report(run(false, 1), 0, 10, HostEffect::Faulty(cause, None));
        stats.record_attempt(seconds(100), &AttemptReport { began: seconds(95), ..fault }, 0);
        assert_eq!(stats.breaker.cause().is_none(), is_closed, "{before:?} {cause:?}");
        let now = if is_closed { BreakerState::Closed } else { BreakerState::Open };
        assert_eq!(stats.breaker.state(seconds(100)), now, "a trial that fails opens it for longer");
    }
}

#[test]
fn a_gateway_that_limits_looks_takes_no_host_away_that_answers_requests() {
    let mut stats = HostStats::default();
    stats.prove(seconds(100), "m", "");
    stats.note_gateway(seconds(110), 0);
    assert_eq!(stats.breaker.cause(), None);
    stats.note_gateway(seconds(116), 0);
    assert_eq!(stats.breaker.cause(), Some(Cause::Gateway));
}

#[test]
fn what_the_version_before_kept_of_a_host_that_a_model_opened_opens_nothing() {
    let stored = br#"{"opening":[100000,160000,"busy"],"streak":3,"failed":100000,"lanes":[]}"#;
    let stats = HostStats::from_json(stored).unwrap();
    assert_eq!((stats.breaker.cause(), stats.breaker.streak), (None, 3));
}

#[test]
fn a_lane_that_failed_is_remembered_before_one_that_was_used_longer_ago() {
    let mut stats = HostStats::default();
    stats.prove(seconds(1), "failed", "");
    stats.record_fault(seconds(500), "failed", 0);
    for number in 2..100 {
        stats.prove(seconds(number), &format!("m{number}"), "");
    }
    assert!(stats.lane("failed").is_some());
    // Names that never gave anything displace each other.
    for number in 0..100 {
        stats.record_fault(seconds(1_000 + number), &format!("made up {number}:cloud"), 0);
    }
    assert!(stats.lane("failed").is_some() && stats.lane("m60").is_some());
}

#[test]
fn a_request_at_fault_itself_changes_nothing() {
    let stats = after(&[report(run(false, 1), 0, 10, HostEffect::Neutral)]);
    assert_eq!((&stats.breaker, stats.lane("m")), (&Breaker::default(), Some(&LaneStats::default())));
}

#[test]
fn the_models_of_which_something_is_known_are_bounded() {
    let mut stats = HostStats::default();
    for number in 0..100 {
        stats.prove(seconds(number), &format!("m{number}"), "");
    }
    assert_eq!(stats.lanes.len(), LANES_LIMIT);
    assert!(stats.lane("m99").is_some() && stats.lane("m0").is_none());
}

#[test]
fn facts_are_read_as_they_were_written_and_others_are_none() {
    let stats = after(&[
        report(run(true, 1), 30_000, 32_000, HostEffect::Answered),
        report(run(false, 3), 100, 2_000, HostEffect::Faulty(Cause::Busy, Some(seconds(5)))),
    ]);
    assert_eq!(HostStats::from_json(&stats.to_json()), Some(stats));
    assert_eq!(HostStats::from_json(&HostStats::default().to_json()), Some(HostStats::default()));
    for other in ["", "{}", "[]", r#"{"streak":1,"failed":0,"lanes":[{}]}"#] {
        assert_eq!(HostStats::from_json(other.as_bytes()), None, "{other}");
    }
}

#[test]
fn whatever_numbers_a_store_holds_can_be_reckoned_with() {
    let answer = report(run(false, 1), 100, 2_000, HostEffect::Answered);
    let mut stats = after(&[answer]);
    let lane = stats.lane_mut("m");
    (lane.service, lane.latency, lane.load, lane.pace, lane.limit) =
        (u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    lane.conversations = vec![Conversation::new(u64::MAX, u64::MAX, Prefixes::none())];
    (lane.first_bytes, lane.wholes) = (vec![u64::MAX; 3], vec![u64::MAX]);
    (lane.completed, lane.limited) = (Duration::MAX, Duration::MAX);
    let mut read = HostStats::from_json(&stats.to_json()).unwrap();
    let lane = read.lane("m").unwrap();
    assert!(lane.known(u64::MAX, 1, Prefixes::none()).continues, "a hash is no time");
    assert!(lane.patience("", true, seconds(1)).is_some());
    assert!(lane.service.checked_mul(1 << 20).is_some() && lane.pace.checked_mul(1 << 20).is_some());
    read.record_attempt(seconds(200), &answer, 0);
    assert_eq!(HostStats::from_json(&read.to_json()), Some(read));
}

#[test]
fn only_what_was_not_known_teaches_the_pace() {
    let text = "a word ".repeat(2_000);
    let prompt = |messages: &[&str]| {
        let mut reader = PrefixReader::default();
        for message in messages {
            reader.text(message.as_bytes());
            reader.end_message();
        }
        reader.finish()
    };
    let (first, second) = (prompt(&[&text]), prompt(&[&text, &text[..2048]]));
    let mut stats = HostStats::default();
    for (prefixes, first_byte) in [(&first, 2_000), (&second, 300)] {
        let run = AttemptContext { prompt: prefixes.length(), prefixes, ..run(false, 1) };
        let report = AttemptReport {
            run: Some(run),
            began: Duration::ZERO,
            first_byte: Some(Duration::from_millis(first_byte)),
            elapsed: seconds(3),
            effect: HostEffect::Answered,
        };
        stats.record_attempt(seconds(100), &report, 0);
    }
    let lane = stats.lane("m").unwrap();
    // 14,000 bytes took 2 s and 2,048 more 300 ms: 146 and 150 ms a KiB.
    assert_eq!(
        (lane.pace, lane.conversations.len()),
        (150, 1),
        "a later turn takes its conversation's place"
    );
    assert_eq!(HostStats::from_json(&stats.to_json()), Some(stats));
}

#[test]
fn as_many_conversations_are_remembered_as_the_host_has_slots() {
    for (slots, expected) in [(0, 1), (1, 1), (4, 4), (1_000, CONVERSATIONS_LIMIT)] {
        let answer = |affinity| {
            report(AttemptContext { affinity, slots, ..run(false, 1) }, 10, 20, HostEffect::Answered)
        };
        let stats = after(&(0..40).map(answer).collect::<Vec<_>>());
        let lane = stats.lane("m").unwrap();
        assert_eq!((lane.conversations.len(), lane.is_full(slots)), (expected, true), "{slots}");
        assert!(lane.known(39, 1, Prefixes::none()).continues);
    }
}

#[test]
fn facts_of_the_version_before_are_read_without_its_conversations() {
    let stats = after(&[report(run(false, 1), 100, 2_000, HostEffect::Answered)]);
    let written = String::from_utf8(stats.to_json()).unwrap();
    let before = written.replace("\"conversations\":[[7,0,0,0,0,0]]", "\"known\":[7,18446744073709551615]");
    assert_ne!(before, written);
    let mut expected = stats;
    expected.lane_mut("m").conversations.clear();
    assert_eq!(HostStats::from_json(before.as_bytes()), Some(expected));
}
