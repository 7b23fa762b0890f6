//! Guests that mean harm, or behave as if: their neighbours serve on, and nothing else restarts.

mod files;
mod loops;
pub mod modules;
mod neighbour;
mod slow;
mod takers;
