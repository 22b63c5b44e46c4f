//! A tool call, in the one form that all dialects are read into.

use std::fmt;

/// One tool call. Its `Debug` form hides the arguments.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// The call's id, if upstream gave one.
    pub(crate) id: Option<String>,
    /// The tool's name.
    pub(crate) name: String,
    /// The arguments as JSON text, exactly as the model wrote it; it may be invalid JSON.
    pub(crate) arguments: String,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Call({} bytes)", self.arguments.len())
    }
}
