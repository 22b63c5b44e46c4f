//! The scripts for answers and flights. Each touches the keys of one question only, but the one that
//! keeps an answer: it makes room in the part of the cache that its question is in, whose keys share its slot.
//!
//! The file of each script documents its keys, its arguments and its reply.

use crate::store::redis::script::script;

pub(super) const ANSWER_OR_LEAD: &[u8] = script!("../scripts/listen.lua", "../scripts/answer_or_lead.lua");
pub(super) const PUBLISH: &[u8] = script!("../scripts/hand_over.lua", "../scripts/publish.lua");
pub(super) const END: &[u8] = script!("../scripts/hand_over.lua", "../scripts/end_flight.lua");
pub(super) const FOLLOW: &[u8] = script!("../scripts/listen.lua", "../scripts/follow.lua");
pub(super) const BEGIN_EPOCHS: &[u8] = script!("../scripts/begin_epochs.lua");
pub(super) const PUT_ANSWER: &[u8] = script!("../scripts/put_answer.lua");
pub(super) const PURGE: &[u8] = script!("../scripts/purge.lua");
