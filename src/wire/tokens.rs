//! Token counts of one answer.

/// Tokens as Ollama counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// In the prompt.
    pub prompt: u64,
    /// In the answer.
    pub completion: u64,
}
