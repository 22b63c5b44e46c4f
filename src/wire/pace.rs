//! How work on a long text is broken into steps, so that one request holds up no other one where all share a thread.
//!
//! It knows no platform: a pause only gives the turn away and asks for the next one. It never decides whether work is
//! broken; whoever runs the work does.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
};

/// The most bytes that are worked on between two pauses.
pub(crate) const STEP: usize = 256 << 10;

/// The pace of one work: how much of it was done since the last pause.
#[derive(Debug)]
pub(crate) struct Pace {
    done: usize,
    step: usize,
}

impl Pace {
    /// Work without pauses.
    pub(crate) const fn unbroken() -> Self {
        Self { done: 0, step: usize::MAX }
    }

    /// Work with a pause after each [`STEP`].
    pub(crate) const fn in_steps() -> Self {
        Self { done: 0, step: STEP }
    }

    /// Counts work on `bytes` that comes next, or was done in one go. A pause comes first where the step would be too long.
    pub(crate) async fn count(&mut self, bytes: usize) {
        if self.is_due(bytes) {
            pause().await;
        }
    }

    /// As [`Pace::count`], for work in many small parts: whether a [`pause`] must come first.
    pub(crate) const fn is_due(&mut self, bytes: usize) -> bool {
        let done = self.done.saturating_add(bytes);
        let is_due = done > self.step;
        self.done = if is_due { bytes } else { done };
        is_due
    }
}

/// Gives the turn away once.
pub(crate) async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Does all of a work at once. It must wait for nothing but its own pauses.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> T {
    let (mut work, mut context) = (pin!(work), Context::from_waker(Waker::noop()));
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
}

/// The longest beginning of a text that is no longer than a step, and the rest.
pub(crate) fn first_step(text: &str) -> (&str, &str) {
    text.split_at_checked(text.floor_char_boundary(STEP)).unwrap_or((text, ""))
}

/// A body in steps. Text in UTF-8 is cut between its letters.
pub(crate) fn steps(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        // A letter has at most three bytes that continue it; more of them are none of a letter.
        let continues = |end: &usize| rest.get(*end).is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = (STEP - 3..=STEP).rev().find(|end| !continues(end)).unwrap_or(STEP);
        let (step, after) = rest.split_at(end.min(rest.len()));
        rest = after;
        (!step.is_empty()).then_some(step)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Does a work in steps; gives how often it paused.
    pub(crate) fn pauses<T>(work: impl AsyncFnOnce(&mut Pace) -> T) -> (T, usize) {
        let mut pace = Pace::in_steps();
        let (mut work, mut pauses) = (pin!(work(&mut pace)), 0);
        loop {
            match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(done) => return (done, pauses),
                Poll::Pending => pauses += 1,
            }
        }
    }

    #[test]
    fn a_step_is_never_longer_than_its_limit_and_short_work_is_one() {
        for (parts, expected) in [
            (vec![], 0),
            (vec![STEP], 0),
            (vec![1; 1000], 0),
            (vec![STEP, 1], 1),
            (vec![STEP / 2; 8], 3),
            (vec![STEP / 2 + 1; 4], 3),
            (vec![STEP; 80], 79),
        ] {
            let ((), broken) = pauses(async |pace: &mut Pace| {
                for part in &parts {
                    pace.count(*part).await;
                }
            });
            assert_eq!(broken, expected, "{} parts", parts.len());
        }
    }

    #[test]
    fn a_text_is_cut_between_letters() {
        assert_eq!(first_step("short"), ("short", ""));
        let text = format!("{}{}", "x".repeat(STEP - 1), "\u{e9}rest");
        assert_eq!(first_step(&text), ("x".repeat(STEP - 1).as_str(), "\u{e9}rest"));
        for (letter, lengths) in [
            (&b"x"[..], [STEP, STEP]),
            ("\u{e9}".as_bytes(), [STEP - 1, STEP]),
            ("\u{20ac}".as_bytes(), [STEP, STEP - 1]),
            ("\u{1f999}".as_bytes(), [STEP - 3, STEP]),
            (b"\x80", [STEP, STEP]),
        ] {
            let text = [b"x", &*letter.repeat(2 * STEP)].concat();
            let cut: Vec<_> = steps(&text).collect();
            assert_eq!(cut.concat(), text);
            assert_eq!([cut[0].len(), cut[1].len()], lengths, "{letter:?}");
        }
        assert_eq!(steps(b"").count(), 0);
        assert_eq!(steps(&[0x80, 0x80]).collect::<Vec<_>>(), [[0x80, 0x80]]);
    }
}
