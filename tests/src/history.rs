//! Whether the turns of a session could have happened one after the other: a checker of linearizability, pure.
//!
//! A turn reads the history and then appends to it. Each of these happens at one moment between the turn's beginning and
//! its end; a turn that was not acknowledged may be appended at any time after its beginning, or never, and may have been
//! answered without memory, which is as if it had read nothing.

use std::{collections::BTreeMap, time::Duration};

/// One turn of a client, whose question no other has.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The question.
    pub question: String,
    /// When it was sent.
    pub began: Duration,
    /// When its reply was complete; none when there was no reply.
    pub ended: Option<Duration>,
    /// The questions that went ahead of it, oldest first, each time that it was asked.
    pub seen: Vec<Vec<String>>,
    /// Whether it was acknowledged.
    pub stored: bool,
}

impl Operation {
    /// The histories that it read. One that was not acknowledged and saw nothing may have read none.
    fn read(&self) -> impl Iterator<Item = &Vec<String>> {
        self.seen.iter().filter(|seen| self.stored || !seen.is_empty())
    }
}

/// Checks one session's operations against the questions that are in it at the end.
///
/// # Errors
/// A sentence about the first thing that cannot have happened one after the other.
pub fn check(operations: &[Operation], end: &[String]) -> Result<(), String> {
    let mut places = BTreeMap::new();
    for (place, question) in end.iter().enumerate() {
        if places.insert(question.as_str(), place).is_some() {
            return Err(format!("{question} is there twice"));
        }
        if !operations.iter().any(|operation| operation.question == *question) {
            return Err(format!("{question} was never asked"));
        }
    }
    let place = |operation: &Operation| places.get(operation.question.as_str()).copied();
    for operation in operations {
        let (question, own) = (&operation.question, place(operation));
        if operation.stored && own.is_none() {
            return Err(format!("{question} was acknowledged and lost"));
        }
        for seen in &operation.seen {
            if !end.starts_with(seen) {
                return Err(format!("{question} saw a history that never was: {seen:?} of {end:?}"));
            }
            if own.is_some_and(|own| own < seen.len()) {
                return Err(format!("{question} saw itself"));
            }
        }
    }
    for earlier in operations {
        let Some(ended) = earlier.ended else { continue };
        for later in operations.iter().filter(|later| later.began > ended) {
            one_after_the_other(earlier, later, &place)?;
        }
    }
    Ok(())
}

/// Checks two turns of which the first had ended when the second began.
fn one_after_the_other(
    earlier: &Operation,
    later: &Operation,
    place: &impl Fn(&Operation) -> Option<usize>,
) -> Result<(), String> {
    let (first, second) = (place(earlier), place(later));
    if earlier.stored && second.is_some() && first > second {
        return Err(format!("{} came before {} and stands behind it", earlier.question, later.question));
    }
    let newest = earlier.read().map(Vec::len).max();
    // What was seen is the begin of the end.
    if second.is_some_and(|second| newest > Some(second)) {
        return Err(format!("{} saw {} before it was asked", earlier.question, later.question));
    }
    for seen in later.read() {
        if earlier.stored && first >= Some(seen.len()) {
            return Err(format!("{} did not see {}", later.question, earlier.question));
        }
        if newest > Some(seen.len()) {
            return Err(format!("{} did not see what {} had seen", later.question, earlier.question));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(ToOwned::to_owned).collect()
    }

    /// An operation as `question began ended`, what it saw, and whether it was acknowledged.
    fn operation(question: &str, (began, ended): (u64, u64), seen: &str, stored: bool) -> Operation {
        Operation {
            question: question.to_owned(),
            began: Duration::from_millis(began),
            ended: Some(Duration::from_millis(ended)),
            seen: vec![list(seen)],
            stored,
        }
    }

    #[test]
    fn what_could_have_happened_one_after_the_other_holds() {
        for (operations, end) in [
            (vec![], ""),
            (vec![operation("a", (0, 1), "", true), operation("b", (2, 3), "a", true)], "a b"),
            // At the same time, in either order, each seeing the other or not.
            (vec![operation("a", (0, 9), "", true), operation("b", (1, 8), "", true)], "b a"),
            (vec![operation("a", (0, 9), "b", true), operation("b", (1, 8), "", true)], "b a"),
            // What was not acknowledged may be there or not, and late.
            (vec![operation("a", (0, 1), "", false), operation("b", (2, 3), "", true)], "b"),
            (vec![operation("a", (0, 1), "", false), operation("b", (2, 3), "", true)], "b a"),
            // Nor need it have seen anything.
            (vec![operation("a", (0, 1), "", true), operation("b", (2, 3), "", false)], "a"),
            (vec![operation("a", (0, 1), "", true), operation("b", (2, 3), "a", false)], "a b"),
            // It saw what was not acknowledged either, and another saw it late.
            (vec![operation("a", (0, 1), "", false), operation("b", (2, 3), "a", false)], "a"),
            (vec![operation("a", (0, 9), "b", false), operation("b", (1, 8), "", true)], "b"),
        ] {
            assert_eq!(check(&operations, &list(end)), Ok(()), "{end}");
        }
    }

    #[test]
    fn what_cannot_have_happened_one_after_the_other_is_found() {
        let two = |seen| vec![operation("a", (0, 1), "", true), operation("b", (2, 3), seen, true)];
        for (operations, end, word) in [
            (two("a"), "b", "lost"),
            (two("a"), "a b a", "twice"),
            (two("a"), "a b c", "never asked"),
            (two(""), "a b", "did not see"),
            (two(""), "b a", "stands behind"),
            (two("c"), "a b", "never was"),
            (two("a b"), "a b", "saw itself"),
        ] {
            let found = check(&operations, &list(end)).unwrap_err();
            assert!(found.contains(word), "{word}: {found}");
        }
    }

    #[test]
    fn what_a_turn_saw_counts_though_it_was_not_acknowledged() {
        let asked = |question, times, seen| operation(question, times, seen, false);
        let stored = |question, times, seen| operation(question, times, seen, true);
        for (operations, end, word) in [
            (vec![asked("a", (0, 1), ""), asked("b", (2, 3), "a")], "", "b saw a history that never was"),
            (
                vec![stored("a", (0, 9), ""), stored("b", (0, 9), ""), asked("c", (0, 9), "b a")],
                "a b",
                "c saw a history that never was",
            ),
            (vec![stored("a", (0, 1), ""), asked("b", (2, 3), "a b")], "a b", "b saw itself"),
            (
                vec![stored("a", (0, 1), ""), stored("b", (2, 3), "a"), asked("c", (4, 5), "a")],
                "a b",
                "c did not see b",
            ),
            (
                vec![
                    stored("a", (0, 1), ""),
                    stored("b", (2, 9), "a"),
                    asked("c", (3, 4), "a b"),
                    asked("d", (5, 6), "a"),
                ],
                "a b",
                "d did not see what c had seen",
            ),
            (vec![asked("a", (0, 1), "b"), stored("b", (2, 3), "")], "b", "a saw b before it was asked"),
        ] {
            assert_eq!(
                check(&operations, &list(end)).map_err(|found| found.starts_with(word)),
                Err(true),
                "{word}"
            );
        }
    }
}
