//! A tool call, in the one form that all dialects are read into.

use std::fmt;

/// One tool call. Its `Debug` form hides the arguments.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The call's id, if upstream gave one.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// The arguments as JSON text, exactly as the model wrote it; it may be invalid JSON.
    pub arguments: String,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Call({} bytes)", self.arguments.len())
    }
}
