//! Includes Lua scripts from files. Scripts are sent whole with every command, so comments and indentation are removed
//! at compile time; nothing else is changed.

/// The code of the scripts in these files, one after the other.
macro_rules! script {
    ($($file:literal),+) => {{
        const TEXT: &str = concat!($(include_str!($file)),+);
        const LENGTH: usize = $crate::store::redis::script::code::<0>(TEXT).1;
        const CODE: [u8; LENGTH] = $crate::store::redis::script::code::<LENGTH>(TEXT).0;
        &CODE
    }};
}
pub(crate) use script;

/// The code of a script at the start of the array, and its length: without comment lines, empty lines and indentation.
/// A script must not have a comment or a string over several lines.
pub(crate) const fn code<const LENGTH: usize>(script: &str) -> ([u8; LENGTH], usize) {
    enum Line {
        Begins,
        IsComment,
        IsCode,
    }
    let mut code = [0; LENGTH];
    let (mut rest, mut free, mut length) = (script.as_bytes(), code.as_mut_slice(), 0);
    let mut line = Line::Begins;
    while let [byte, after @ ..] = rest {
        line = match (line, rest) {
            (Line::Begins, [b' ' | b'\n', ..]) | (Line::IsComment, [b'\n', ..]) => Line::Begins,
            (Line::Begins, [b'-', b'-', ..]) | (Line::IsComment, _) => Line::IsComment,
            (Line::Begins | Line::IsCode, _) => {
                length += 1;
                if let [place, others @ ..] = free {
                    *place = *byte;
                    free = others;
                }
                if *byte == b'\n' { Line::Begins } else { Line::IsCode }
            }
        };
        rest = after;
    }
    (code, length)
}

#[cfg(test)]
pub(crate) mod tests;
