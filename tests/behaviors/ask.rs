//! A question and its answer on every surface: what is asked of Ollama, what comes back, and when a client leaves.

mod answer_shapes;
mod backpressure;
mod bad_input;
mod chat;
mod chat_stream;
mod leaving_clients;
mod loading_models;
mod long_answers;
mod odd_ends;
mod odd_requests;
mod official_clients;
mod packed_bodies;
mod paths;
mod recorded_exchanges;
mod relaying;
mod surface_errors;
mod transcriptions;
mod unread_bodies;
