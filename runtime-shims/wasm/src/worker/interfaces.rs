//! Bindings of the interfaces in `wit/`, made from their text when this is compiled.

#![allow(missing_docs, unreachable_pub, reason = "generated code")]

wasmtime::component::bindgen!({
    path: "wit",
    world: "state",
    imports: {
        "wasi:config/store": trappable,
        default: async | trappable,
    },
    require_store_data_send: true,
    with: {
        "wasi:keyvalue/store.bucket": super::keyvalue::Bucket,
    },
});

pub(super) use wasi::{config, keyvalue};
