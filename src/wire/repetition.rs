//! Recognises an answer that Ollama ends because the model repeats itself.
//!
//! Ollama 0.33 (`llm/llama_server.go`) gives up before the 32nd piece of text in a row that is the same but for the space
//! around it, and ends the answer without a terminator, as if nothing had happened. Nothing else tells such an end from a
//! runner that died. Pure, and without an allocation for a piece.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::protocol::Chunk;

/// How many pieces in a row are the same when Ollama gives up.
const LIMIT: usize = 31;
/// The longest piece that a repetition in a whole answer consists of, in bytes. No token is longer.
const LONGEST: usize = 256;

/// Counts how many pieces in a row are the same.
#[derive(Debug)]
pub(crate) struct Repetition {
    last: u64,
    count: usize,
}

impl Default for Repetition {
    /// Ollama counts as if a blank piece had come before the first.
    fn default() -> Self {
        Self { last: fingerprint(""), count: 1 }
    }
}

impl Repetition {
    /// Counts the text or the thinking of a chunk; one without either is no piece.
    pub(crate) fn add(&mut self, chunk: &Chunk<'_>) {
        let piece = if chunk.text.is_empty() { &chunk.thinking } else { &chunk.text };
        if chunk.is_crash || !chunk.calls.is_empty() {
            self.count = 0;
        } else if !piece.is_empty() {
            let piece = fingerprint(piece.trim());
            self.count = if self.count > 0 && piece == self.last { self.count.saturating_add(1) } else { 1 };
            self.last = piece;
        }
    }

    /// Whether an answer that ends here without a terminator is one that Ollama ended.
    pub(crate) fn is_limit(&self) -> bool {
        self.count >= LIMIT
    }
}

fn fingerprint(piece: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    piece.hash(&mut hasher);
    hasher.finish()
}

/// Whether a whole answer ends in so many repetitions that Ollama gave up. Where its pieces began is not known any more.
pub(crate) fn is_repeated(chunk: &Chunk<'_>) -> bool {
    let said = if chunk.text.is_empty() { &chunk.thinking } else { &chunk.text };
    // Space around the pieces does not count, so none does.
    let letters = said.bytes().rev().filter(|byte| !byte.is_ascii_whitespace());
    let end: Vec<u8> = letters.take(LIMIT * LONGEST).collect();
    if end.is_empty() {
        return said.len() >= LIMIT - 1;
    }
    (1..=end.len() / LIMIT).any(|length| {
        let repeated = end.iter().zip(end.iter().skip(length)).take(length * (LIMIT - 1));
        repeated.clone().count() == length * (LIMIT - 1) && repeated.clone().all(|(one, next)| one == next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count<'a>(pieces: impl IntoIterator<Item = Chunk<'a>>) -> bool {
        let mut repetition = Repetition::default();
        pieces.into_iter().for_each(|piece| repetition.add(&piece));
        repetition.is_limit()
    }

    fn text(text: &str) -> Chunk<'_> {
        Chunk { text: text.into(), ..Chunk::default() }
    }

    fn thinking(thinking: &str) -> Chunk<'_> {
        Chunk { thinking: thinking.into(), ..Chunk::default() }
    }

    #[test]
    fn the_last_31_pieces_are_the_same_but_for_the_space_around_them() {
        let times = |piece: &'static str, count| (0..count).map(move |_| text(piece));
        assert!(count(times(" ha", 31)));
        assert!(!count(times(" ha", 30)));
        assert!(count(times("well", 1).chain(times("ha", 15)).chain(times(" ha\n", 16))));
        assert!(!count(times("ha", 40).chain(times("!", 1))));
        assert!(count(times("ho", 40).chain(times("ha", 31))));
        assert!(!count([" ha", " ho"].into_iter().cycle().take(100).map(text)));
        // Ollama counts from a blank piece on.
        assert!(count(times("\n", 30)));
        assert!(!count(times("a", 1).chain(times("\n", 30))));
        assert!(!count([]));
    }

    #[test]
    fn thinking_counts_as_text_and_what_is_neither_does_not_count() {
        assert!(count((0..31).map(|_| thinking("hm"))));
        assert!(count((0..31).flat_map(|_| [text("ha"), Chunk::default()])));
        let crash = Chunk { is_crash: true, ..Chunk::default() };
        assert!(!count((0..31).map(|_| text("ha")).chain([crash])));
    }

    #[test]
    fn a_whole_answer_ends_in_31_repetitions() {
        for (said, expected) in [
            (" ha".repeat(31), true),
            (" ha".repeat(30), false),
            (format!("Well, {}", "ha, ha\n".repeat(31)), true),
            (format!("{}!", " ha".repeat(40)), false),
            ("\n".repeat(30), true),
            ("The sky is blue.".to_owned(), false),
            ("é ".repeat(31), true),
            ("word".repeat(31), true),
            (String::new(), false),
            ("0123456789".repeat(3), false),
        ] {
            assert_eq!(is_repeated(&text(&said)), expected, "{said}");
            assert_eq!(is_repeated(&thinking(&said)), expected, "{said}");
        }
    }
}
