//! A question and its answer on every surface: what is asked of Ollama, what comes back, and when a client leaves.

mod answer_shapes;
mod backpressure;
mod bad_input;
mod chat;
mod chat_stream;
mod leaving_clients;
mod loading_models;
mod official_clients;
mod recorded_exchanges;
mod relaying;
mod surface_errors;
mod unread_bodies;
