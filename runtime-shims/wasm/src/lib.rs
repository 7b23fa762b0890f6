//! coracle-shim-wasm
