//! Zstandard (RFC 8878), unpacked piece by piece as it arrives.
//!
//! Whoever sends it may want to do harm: at most [`WINDOW_LIMIT`] bytes are kept of what was unpacked, at most one block of
//! what was not, and one step unpacks one block. It never limits the whole, which its caller counts.

use bytes::{Buf, BytesMut};
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The largest window of a frame, in bytes, as in Ollama.
pub(crate) const WINDOW_LIMIT: u64 = 8 << 20;
/// The longest header of a frame, in bytes.
const LONGEST_HEADER: usize = 18;
/// The length of a skippable frame's header, in bytes.
const SKIPPABLE_HEADER: usize = 8;
/// The length of a block's header, in bytes.
const BLOCK_HEADER: usize = 3;
/// The length of the checksum behind a frame, in bytes.
const CHECKSUM: usize = 4;
/// The most content of a block, in bytes.
const BLOCK_LIMIT: usize = 128 << 10;

/// What was fed is not Zstandard, is cut or changed, or needs a larger window or a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// What one step gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some unpacked bytes.
    Unpacked(Vec<u8>),
    /// Nothing yet, but the next step can go on.
    Nothing,
    /// Nothing before more is fed. When all is fed, everything is unpacked.
    Hungry,
}

/// Unpacks any number of frames.
pub(crate) struct Decoder {
    frame: FrameDecoder,
    place: Place,
    packed: BytesMut,
    has_all: bool,
    /// How many bytes of the present frame were unpacked.
    unpacked: u64,
    /// How many blocks of the present frame were.
    blocks: u64,
}

/// What comes next of what is packed.
#[derive(Clone, Copy)]
enum Place {
    Frame,
    /// So many bytes of a skippable frame.
    Skipped(usize),
    Block,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(WINDOW_LIMIT);
        Self { frame, place: Place::Frame, packed: BytesMut::new(), has_all: false, unpacked: 0, blocks: 0 }
    }

    /// How many bytes are held at most of what was unpacked and not handed out: twice as many as there may be, because their
    /// ring grows by doubling.
    pub(crate) fn held(&self) -> usize {
        let held = self.blocks.saturating_mul(BLOCK_LIMIT as u64).saturating_sub(self.unpacked);
        usize::try_from(2 * held.min(WINDOW_LIMIT)).unwrap_or(usize::MAX)
    }

    /// Takes more of what is packed. What was fed before must have been unpacked as far as that goes.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.packed.extend_from_slice(piece);
    }

    /// Nothing more will be fed.
    pub(crate) fn end(&mut self) {
        self.has_all = true;
    }

    /// Unpacks one block at most.
    ///
    /// # Errors
    /// [`Damaged`]; no further step may be taken then.
    pub(crate) fn step(&mut self) -> Result<Step, Damaged> {
        match self.place {
            Place::Frame => self.begin_frame(),
            Place::Skipped(left) => self.skip(left),
            Place::Block => self.unpack_block(),
        }
    }

    fn begin_frame(&mut self) -> Result<Step, Damaged> {
        if self.packed.is_empty() || self.packed.len() < LONGEST_HEADER && !self.has_all {
            return Ok(Step::Hungry);
        }
        let mut rest = &*self.packed;
        let (place, read) = match self.frame.reset(&mut rest) {
            Ok(()) => (Place::Block, self.packed.len() - rest.len()),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => (Place::Skipped(length as usize), SKIPPABLE_HEADER),
            Err(_) => return Err(Damaged),
        };
        self.packed.advance(read);
        self.place = place;
        (self.unpacked, self.blocks) = (0, 0);
        Ok(Step::Nothing)
    }

    fn skip(&mut self, left: usize) -> Result<Step, Damaged> {
        let skipped = left.min(self.packed.len());
        self.packed.advance(skipped);
        let left = left - skipped;
        self.place = if left == 0 { Place::Frame } else { Place::Skipped(left) };
        match left {
            0 => Ok(Step::Nothing),
            _ if self.has_all => Err(Damaged),
            _ => Ok(Step::Hungry),
        }
    }

    fn unpack_block(&mut self) -> Result<Step, Damaged> {
        let length = match self.packed.first_chunk::<BLOCK_HEADER>() {
            Some(header) => block_length(*header)? + if self.has_all { 0 } else { CHECKSUM },
            None => BLOCK_HEADER,
        };
        if self.packed.len() < length {
            return if self.has_all { Err(Damaged) } else { Ok(Step::Hungry) };
        }
        let mut rest = &*self.packed;
        self.frame.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| Damaged)?;
        let read = self.packed.len() - rest.len();
        self.packed.advance(read);
        self.blocks += 1;
        let mut unpacked = Vec::new();
        self.frame.collect_to_writer(&mut unpacked).map_err(|_| Damaged)?;
        self.unpacked += unpacked.len() as u64;
        if self.frame.is_finished() {
            self.check()?;
            self.place = Place::Frame;
        }
        Ok(if unpacked.is_empty() { Step::Nothing } else { Step::Unpacked(unpacked) })
    }

    /// Checks a complete frame against what it says of itself: its length and its checksum.
    fn check(&self) -> Result<(), Damaged> {
        let length = self.frame.content_size();
        let sum = self.frame.get_checksum_from_data();
        let is_whole = length == 0 || length == self.unpacked;
        let is_unchanged = sum.is_none() || sum == self.frame.get_calculated_checksum();
        if is_whole && is_unchanged { Ok(()) } else { Err(Damaged) }
    }
}

/// How many bytes a block takes, its header included.
fn block_length(header: [u8; BLOCK_HEADER]) -> Result<usize, Damaged> {
    let [low, middle, high] = header;
    let size = u32::from_le_bytes([low, middle, high, 0]) as usize >> 3;
    // A run of one byte is that byte, whatever its length.
    let is_run = low >> 1 & 3 == 1;
    if size > BLOCK_LIMIT { Err(Damaged) } else { Ok(BLOCK_HEADER + if is_run { 1 } else { size }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    /// Feeds a body in pieces of this length.
    fn unpacked(packed: &[u8], piece: usize) -> Result<Vec<u8>, Damaged> {
        let mut decoder = Decoder::new();
        let mut whole = Vec::new();
        let mut pieces = packed.chunks(piece);
        loop {
            match decoder.step()? {
                Step::Unpacked(bytes) => whole.extend(bytes),
                Step::Nothing => (),
                Step::Hungry if decoder.has_all => return Ok(whole),
                Step::Hungry => match pieces.next() {
                    Some(piece) => decoder.feed(piece),
                    None => decoder.end(),
                },
            }
        }
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    fn text() -> Vec<u8> {
        br#"{"model":"llama3.2","messages":[{"role":"user","content":"hello"}]}"#.repeat(4000)
    }

    /// A skippable frame around these bytes.
    fn skippable(content: &[u8]) -> Vec<u8> {
        [&0x184D_2A5B_u32.to_le_bytes()[..], &u32::try_from(content.len()).unwrap().to_le_bytes(), content]
            .concat()
    }

    /// A frame of runs of 128 KiB: without a length, with a window that is described by `window`.
    fn runs(window: u8, count: usize) -> Vec<u8> {
        let run = |is_last: u32| (131_072_u32 << 3 | 1 << 1 | is_last).to_le_bytes();
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0, window];
        for number in 1..=count {
            frame.extend([&run(u32::from(number == count))[..3], b"x"].concat());
        }
        frame
    }

    #[test]
    fn what_is_unpacked_and_not_handed_out_is_counted() {
        let (eight_mib, count) = (0x68, 70);
        let mut decoder = Decoder::new();
        decoder.feed(&runs(eight_mib, count));
        decoder.end();
        let (mut most, mut handed_out) = (0, 0);
        loop {
            match decoder.step().unwrap() {
                Step::Hungry => break,
                Step::Nothing => {}
                Step::Unpacked(bytes) => handed_out += bytes.len(),
            }
            most = most.max(decoder.held());
        }
        assert_eq!((most as u64, handed_out), (2 * WINDOW_LIMIT, count * BLOCK_LIMIT));
        assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn frames_are_unpacked_however_they_arrive() {
        let (text, empty) = (text(), packed(b""));
        let whole = packed(&text);
        let several =
            [skippable(b"ab"), whole.clone(), skippable(&[0; 1000]), empty, packed(b"end")].concat();
        for piece in [1, 2, 7, 1000, usize::MAX] {
            assert_eq!(unpacked(&whole, piece).unwrap(), text, "{piece}");
            assert_eq!(unpacked(&several, piece).unwrap(), [&text[..], b"end"].concat(), "{piece}");
        }
        assert_eq!(unpacked(b"", 1), Ok(Vec::new()));
        assert_eq!(unpacked(&skippable(b""), 3), Ok(Vec::new()));
        assert_eq!(unpacked(&runs(0x50, 20), 1000).unwrap(), vec![b'x'; 20 << 17]);
    }

    #[test]
    fn what_is_cut_or_changed_or_too_wide_is_refused() {
        let whole = packed(&text());
        for length in [1, 3, 4, 5, 8, 20, whole.len() / 2, whole.len() - 1] {
            assert_eq!(unpacked(&whole[..length], 100), Err(Damaged), "{length}");
        }
        assert_eq!(unpacked(&[&whole[..], b"\n"].concat(), 1000), Err(Damaged));
        assert_eq!(
            unpacked(&[&whole[..], b"{\"model\":\"x\",\"messages\":[]}"].concat(), 1000),
            Err(Damaged)
        );
        assert_eq!(unpacked(b"{\"model\":\"llama3.2\",\"messages\":[]}", 1000), Err(Damaged));
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x10;
        assert_eq!(unpacked(&changed, 1000), Err(Damaged));
        let cut = skippable(&[0; 10]);
        assert_eq!(unpacked(&cut[..12], 1000), Err(Damaged));
        // 8 MiB are taken, the next size is not.
        assert!(unpacked(&runs(0x68, 2), 1000).is_ok());
        assert_eq!(unpacked(&runs(0x69, 2), 1000), Err(Damaged));
        // The frame says that it has one byte more than it has.
        let lying = [0x28, 0xB5, 0x2F, 0xFD, 0x20, 2, 9, 0, 0, b'x'];
        assert_eq!(unpacked(&lying, 1000), Err(Damaged));
    }

    #[test]
    fn a_step_unpacks_a_little_however_much_is_packed_in_it() {
        let mut decoder = Decoder::new();
        decoder.feed(&runs(0x50, 10_000));
        let mut unpacked = 0;
        for _ in 0..1000 {
            if let Step::Unpacked(bytes) = decoder.step().unwrap() {
                assert!(bytes.len() <= 2 * BLOCK_LIMIT);
                unpacked += bytes.len();
            }
        }
        assert!(unpacked > 100 << 20);
    }

    proptest! {
        #[test]
        fn damage_never_panics(place in 0_usize..1000, byte: u8, length in 0_usize..1000, piece in 1_usize..300) {
            let mut changed = packed(&text()[..3000]);
            let place = place % changed.len();
            changed[place] = byte;
            changed.truncate(changed.len().max(length));
            let _ = unpacked(&changed, piece);
        }
    }
}
