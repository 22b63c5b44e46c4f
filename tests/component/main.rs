//! The behaviours on the very components that Spin runs, in a harness that does what Spin does, and what only Spin has.

#![cfg(test)]

use paddock_tests::gateway::Spin;

macro_rules! on_every_form {
    ($($behavior:ident,)*) => {
        mod spin {
            $(#[tokio::test]
            async fn $behavior() -> anyhow::Result<()> {
                super::$behavior(&crate::Spin).await
            })*
        }
    };
}

macro_rules! on_every_store {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

/// Spin tells a component that its client left only when the component writes.
macro_rules! where_leaving_is_seen {
    ($($behavior:ident,)*) => { const _: () = { $(let _ = $behavior;)* }; };
}

/// Where time passes by hand.
macro_rules! in_memory {
    ($($behavior:ident,)*) => { const _: () = { $(let _ = $behavior;)* }; };
}

macro_rules! over_http {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

macro_rules! over_redis {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

#[path = "../behaviors/mod.rs"]
mod behaviors;
mod files;
mod instances;
mod manifest;
mod misconfigured;
