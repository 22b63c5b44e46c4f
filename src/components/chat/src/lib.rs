//! Paddock's chat component.
