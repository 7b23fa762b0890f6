//! Compiles `proto/cri.proto` in pure Rust: building Coracle needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/cri.proto");
    let descriptors = protox::compile(["proto/cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        // Its fields are secrets: `v1::AuthConfig` gets a Debug by hand that hides them.
        .skip_debug(["runtime.v1.AuthConfig"])
        // A call that a runtime does not implement answers `Unimplemented`, as gRPC has it.
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    Ok(())
}
