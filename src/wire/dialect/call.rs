//! A call of a tool, as every dialect has it.

use std::fmt;

/// One call of a tool. Its `Debug` form shows no arguments.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// Its id, as upstream gave it.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// JSON text of the arguments, as the model wrote it; it need not be valid.
    pub arguments: String,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Call({} bytes)", self.arguments.len())
    }
}
