//! Vectors that follow from the text alone.

/// A vector of length 1.
pub(super) fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let numbers: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [high, low, ..] = state.to_be_bytes();
        f32::from(i16::from_be_bytes([high, low])) + 0.5
    })
    .take(dimensions)
    .collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    numbers.iter().map(|number| number / length).collect()
}

/// A vector as base64 of its numbers, each in four bytes, the lowest first.
pub(super) fn base64(numbers: &[f32]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index| group.get(index).copied().unwrap_or_default();
        let bits = u32::from_be_bytes([0, byte(0), byte(1), byte(2)]);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = ALPHABET.get((bits >> shift & 63) as usize).filter(|_| index <= group.len());
            text.push(char::from(letter.copied().unwrap_or(b'=')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ollama::shapes::object;

    #[test]
    fn base64_is_as_ollama_writes_it() {
        let numbers: Vec<f32> = serde_json::from_value(
            object("28-v1-embeddings").unwrap().pointer("/data/0/embedding").unwrap().clone(),
        )
        .unwrap();
        let recorded = object("29-v1-embeddings-base64").unwrap();
        assert_eq!(recorded.pointer("/data/0/embedding"), Some(&Value::from(base64(&numbers))));
    }

    #[test]
    fn a_vector_follows_from_its_text_and_has_length_1() {
        let vector = embedding("hello", 8);
        assert_eq!((vector.len(), &vector), (8, &embedding("hello", 8)));
        assert_ne!(vector, embedding("hallo", 8));
        let length: f32 = vector.iter().map(|number| number * number).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
}
