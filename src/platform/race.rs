//! Waiting for the first of several futures, where each outcome gets a name.
//!
//! `futures::future::select` nests its outcomes in `Either`, and `futures::select!` takes only futures that are fused and
//! chooses among the ready ones at random, which the core must not. A race starts no task and moves no future: each is
//! pinned where it stands.

/// Waits for the first of the futures that is ready, and gives what its arm makes of the output. The futures are polled in
/// the order of the arms; the others are dropped. A future that must survive the race is given as `pinned.as_mut()`.
macro_rules! race {
    (@pinned $({ $future:ident, $output:pat, $outcome:expr })+) => {
        ::std::future::poll_fn(|context| {
            $(
                if let ::std::task::Poll::Ready($output) = ::std::future::Future::poll($future.as_mut(), context) {
                    return ::std::task::Poll::Ready($outcome);
                }
            )+
            ::std::task::Poll::Pending
        })
        .await
    };
    (@pin [$($pinned:tt)*]) => {
        $crate::platform::race!(@pinned $($pinned)*)
    };
    (@pin [$($pinned:tt)*] $output:pat = $future:expr => $outcome:expr, $($arms:tt)*) => {{
        let mut future = ::std::pin::pin!($future);
        $crate::platform::race!(@pin [$($pinned)* { future, $output, $outcome }] $($arms)*)
    }};
    ($($arms:tt)+) => {
        $crate::platform::race!(@pin [] $($arms)+)
    };
}

pub(crate) use race;

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::pin,
    };

    use futures::{FutureExt as _, channel::oneshot};

    #[derive(Debug, PartialEq)]
    enum Signal {
        Event(u8),
        Over,
        Tick,
    }

    #[test]
    fn the_first_arm_that_is_ready_wins_and_a_borrowed_future_survives() {
        let (sender, receiver) = oneshot::channel();
        let mut event = pin!(receiver.map(Result::unwrap_or_default));
        let mut next = |over: bool| {
            let over = async move {
                if !over {
                    pending::<()>().await;
                }
            };
            let signal = async {
                race! {
                    event = event.as_mut() => Signal::Event(event),
                    () = over => Signal::Over,
                    () = ready(()) => Signal::Tick,
                }
            };
            signal.now_or_never()
        };
        assert_eq!(next(false), Some(Signal::Tick));
        assert_eq!(next(true), Some(Signal::Over), "the arms stand in the order in which they are polled");
        sender.send(7).unwrap();
        assert_eq!(next(true), Some(Signal::Event(7)));
    }
}
