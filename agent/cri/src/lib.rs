//! coracle-cri
