//! Paddock's health component.
