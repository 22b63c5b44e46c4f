//! What the adapter adds to the planner.
