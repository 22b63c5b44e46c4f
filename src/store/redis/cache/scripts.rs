//! The scripts of answers and flights. None decides anything, and each touches the keys of one question alone.
//!
//! Each says in its file what it does, and what its keys, its arguments and its reply are.

use crate::store::redis::script::script;

pub(super) const ANSWER_OR_LEAD: &[u8] = script!("../scripts/listen.lua", "../scripts/answer_or_lead.lua");
pub(super) const PUBLISH: &[u8] = script!("../scripts/hand_over.lua", "../scripts/publish.lua");
pub(super) const END: &[u8] = script!("../scripts/hand_over.lua", "../scripts/end_flight.lua");
pub(super) const FOLLOW: &[u8] = script!("../scripts/listen.lua", "../scripts/follow.lua");
pub(super) const PURGE: &[u8] = script!("../scripts/purge.lua");
