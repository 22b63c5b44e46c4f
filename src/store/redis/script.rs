//! Takes Lua scripts in from files of their own. A script is sent whole with every command, so it is sent without what
//! only its readers need; beyond comments and indentation nothing of it may be changed.

/// The code of scripts that lie in these files, one behind the other.
macro_rules! script {
    ($($file:literal),+) => {{
        const TEXT: &str = concat!($(include_str!($file)),+);
        const LENGTH: usize = $crate::store::redis::script::code::<0>(TEXT).1;
        const CODE: [u8; LENGTH] = $crate::store::redis::script::code::<LENGTH>(TEXT).0;
        &CODE
    }};
}
pub(crate) use script;

/// The beginning of the code of a script, and how long the whole is: lines that are comments or empty are left out, and
/// indentation is. A script has no comment and no string that goes over several lines.
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
