//! A node agent and what belongs to it: the Wasm runtime's process, the runtimes' endpoints, the node's network.
