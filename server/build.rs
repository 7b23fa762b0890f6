//! Asks the linker for relative relocations in packed form: there are a hundred thousand of them, mostly of vtables, and
//! three megabytes of the file without it. Hosts need glibc 2.36 (Debian 12) to load it.

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by its environment")]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
