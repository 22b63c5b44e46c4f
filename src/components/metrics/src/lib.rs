//! Paddock's metrics component.
