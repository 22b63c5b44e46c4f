//! The time budget of a request: alone, and in whole requests.

#[cfg(feature = "memory")]
mod requests;

use super::*;

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

enum Step {
    /// A question, how long its answer may take, and whether that is the whole budget.
    Ask(u64, bool),
    Hear,
    Renew,
}

#[test]
fn what_is_asked_at_the_same_time_is_spent_once_and_what_is_asked_later_has_the_rest() {
    use Step::{Ask, Hear, Renew};
    for steps in [
        &[(0, Ask(30, true)), (10, Hear), (10, Ask(20, false)), (15, Hear), (15, Ask(15, false)), (40, Hear)]
            [..],
        // While nothing is waited for nothing is spent.
        &[
            (0, Ask(30, true)),
            (10, Hear),
            (900, Ask(20, false)),
            (920, Hear),
            (920, Ask(0, false)),
            (920, Hear),
        ],
        // Two at the same time; what the first answer leads to has what is left then.
        &[(0, Ask(30, true)), (5, Ask(25, true)), (10, Hear), (15, Ask(15, false)), (20, Hear), (25, Hear)],
        &[(0, Ask(30, true)), (40, Hear), (41, Ask(0, false)), (41, Hear), (50, Renew), (60, Ask(30, true))],
    ] {
        let mut spending = Spending::new(at(30));
        for (number, (time, step)) in steps.iter().enumerate() {
            match step {
                Ask(limit, is_whole) => {
                    let expected = TimeLimit { time: at(*limit), is_whole: *is_whole };
                    assert_eq!(spending.begin(at(*time)), expected, "{number}");
                }
                Hear => spending.end(at(*time)),
                Renew => spending.renew(),
            }
        }
    }
}
