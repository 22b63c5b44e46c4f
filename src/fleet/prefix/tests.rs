//! How much of one prompt is known from another.

use proptest::prelude::*;

use super::*;

/// Words of a length in bytes that are the same for the same name only.
fn words(name: u64, length: usize) -> Vec<u8> {
    let words = (name << 32..).flat_map(|word| format!("{:08x} ", split_mix(word) >> 32).into_bytes());
    words.take(length).collect()
}

/// A conversation: its instructions, and messages by name and length.
fn prefixes(instructions: (u64, usize), messages: &[(u64, usize)]) -> Prefixes {
    let mut reader = PrefixReader::default();
    reader.text(&words(instructions.0, instructions.1));
    for (name, length) in messages {
        reader.text(&words(*name, *length));
        reader.end_message();
    }
    reader.finish()
}

fn known(earlier: &Prefixes, later: &Prefixes) -> Known {
    let conversation = Conversation::new(earlier.opening(), earlier.length(), earlier);
    conversation.known(later.opening(), later.length(), later)
}

#[test]
fn a_later_turn_knows_all_of_the_turn_before_and_another_conversation_what_it_shares() {
    let system = (1, 12 << 10);
    let turn = prefixes(system, &[(2, 700)]);
    let next = prefixes(system, &[(2, 700), (3, 500), (4, 300)]);
    assert_eq!(known(&turn, &next), Known { continues: true, bytes: (12 << 10) + 700 });
    let other = prefixes(system, &[(5, 700)]);
    assert_eq!(known(&turn, &other), Known { continues: false, bytes: 8 << 10 });
    assert_eq!(known(&turn, &prefixes((9, 12 << 10), &[(5, 700)])), Known::default());
}

#[test]
fn a_last_message_that_changed_leaves_the_message_before_known() {
    let turn = prefixes((1, 100), &[(2, 700), (3, 500), (4, 300)]);
    let next = prefixes((1, 100), &[(2, 700), (3, 500), (5, 300), (6, 100)]);
    assert_eq!(known(&turn, &next), Known { continues: true, bytes: 1300 });
}

#[test]
fn an_image_counts_four_kibibytes_however_long_it_is() {
    for (length, expected) in [(100, 102), (4 << 10, (4 << 10) + 2), (3_000_000, (4 << 10) + 2)] {
        let mut reader = PrefixReader::default();
        reader.text(&[b"\"", &"iVBORw0K".repeat(length / 8 + 1).as_bytes()[..length], b"\""].concat());
        assert_eq!(reader.finish().length(), expected, "{length}");
    }
}

#[test]
fn a_conversation_is_read_as_it_was_written_and_nothing_else_is_one() {
    for messages in [&[][..], &[(2, 10)], &[(2, 10), (3, 20)], &[(2, 10), (3, 20), (4, 900_000)]] {
        let prefixes = prefixes((1, 3_000), messages);
        let conversation = Conversation::new(u64::MAX, prefixes.length(), &prefixes);
        let numbers = conversation.to_numbers();
        assert!(numbers.len() <= 2 + 2 * ENDS_REMEMBERED + BEGINNINGS, "{}", numbers.len());
        assert_eq!(Conversation::from_numbers(&numbers), Some(conversation));
    }
    for other in [&[][..], &[1], &[1; 5], &[1, 1, 1, u64::MAX, 0, 0], &[1, 1, 0, 0, 0, 0, u64::MAX]] {
        assert_eq!(Conversation::from_numbers(other), None, "{other:?}");
    }
}

proptest! {
    #[test]
    fn what_is_known_is_never_more_than_what_is_the_same(
        shared in 0usize..40_000, own in 1usize..20_000, other in 1usize..20_000,
    ) {
        let (first, second) = (prefixes((1, shared), &[(2, own)]), prefixes((1, shared), &[(3, other)]));
        let known = known(&first, &second);
        // The first letters of two messages may be the same by chance.
        prop_assert!(known.bytes <= shared as u64 + 8, "{known:?}");
        prop_assert!(shared < 1024 || known.bytes * 2 + 2 >= (shared as u64).min(LONGEST), "{known:?}");
    }

    #[test]
    fn pieces_make_no_difference(length in 0usize..20_000, at in 0usize..20_000) {
        let text = words(1, length);
        let (before, after) = text.split_at(at.min(length));
        let (mut whole, mut parts) = (PrefixReader::default(), PrefixReader::default());
        whole.text(&text);
        parts.text(before);
        parts.text(after);
        prop_assert_eq!(whole.finish(), parts.finish());
    }
}
