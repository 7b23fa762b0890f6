//! The hidden commands with which this file starts itself again as the Wasm runtime's processes.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use coracle_shim_wasm::compile::{self, Reexec};
use coracle_shim_wasm::front::{self, FrontConfig};
use coracle_shim_wasm::images::Registries;
use coracle_shim_wasm::worker;

use crate::cli::WasmShimArgs;
use crate::paths::Paths;

pub(crate) fn shim(args: WasmShimArgs) -> anyhow::Result<()> {
    let level = if args.debug { "debug" } else { "info" };
    tracing_subscriber::fmt()
        .with_env_filter(format!("warn,coracle_shim_wasm={level}"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let paths = Paths::open(Some(&args.data_dir))?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let again = |command: &str| Reexec { program: program.clone(), args: vec![OsString::from(command)] };
    let mut config = FrontConfig::under(paths.root(), again("wasm-worker"), again("wasm-compile"));
    config.socket = paths.wasm_socket();
    config.registries = Registries { insecure: args.insecure_registry };
    front::run(config)?;
    Ok(())
}

pub(crate) fn worker() -> ExitCode {
    worker::run_on_stdin()
}

pub(crate) fn compile(task: &str) -> ExitCode {
    compile::run(task)
}
