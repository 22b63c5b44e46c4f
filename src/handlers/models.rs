//! The routes for the models of all hosts: lists, management; and the description of this API.

pub(super) mod list;
pub(super) mod manage;
pub(super) mod openapi;
