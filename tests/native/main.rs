//! The behaviours on the native binary, with its store embedded, on disk and over Redis, and what only a process has.

#![cfg(test)]

use paddock_tests::gateway::{Native, OnDisk};

const EMBEDDED: Native = Native { redis: false };
const REDIS: Native = Native { redis: true };
const DISK: OnDisk = OnDisk;

macro_rules! native {
    ($module:ident, $form:ident, $($behavior:ident,)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $behavior() -> anyhow::Result<()> {
                super::$behavior(&crate::$form).await
            })*
        }
    };
}

macro_rules! on_every_form {
    ($($behavior:ident,)*) => {
        native! { native_embedded, EMBEDDED, $($behavior,)* }
        native! { native_redis, REDIS, $($behavior,)* }
    };
}

macro_rules! on_every_store {
    ($($behavior:ident,)*) => {
        on_every_form! { $($behavior,)* }
        native! { native_disk, DISK, $($behavior,)* }
    };
}

macro_rules! where_leaving_is_seen {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

/// Where time passes by hand.
macro_rules! in_memory {
    ($($behavior:ident,)*) => { const _: () = { $(let _ = $behavior;)* }; };
}

macro_rules! over_http {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

macro_rules! over_redis {
    ($($behavior:ident,)*) => { native! { native_redis, REDIS, $($behavior,)* } };
}

mod access;
#[path = "../behaviors/mod.rs"]
mod behaviors;
mod coalescing;
mod command_line;
mod connections;
mod disk;
mod fleet;
mod hosts;
mod logs;
mod openapi;
mod readme;
mod redis;
mod shutdown;
mod streams;
