//! The hidden commands with which this file starts itself again as the Wasm runtime's processes.

use std::ffi::OsString;
use std::process::ExitCode;

use coracle_shim_wasm::compile::{self, Reexec};
use coracle_shim_wasm::front::{self, FrontConfig};
use coracle_shim_wasm::worker;

use crate::cli::WasmShimArgs;
use crate::memory;
use crate::paths::Paths;

pub(crate) fn shim(args: WasmShimArgs) -> anyhow::Result<()> {
    coracle_agent::logging::start_in_file(&format!(
        "warn,coracle_shim_wasm={}",
        if args.debug { "debug" } else { "info" }
    ));
    let paths = Paths::open(Some(&args.data_dir))?;
    // The file this process runs, also after an upgrade has put another one in its place.
    let again = |command: &str| Reexec { program: "/proc/self/exe".into(), args: vec![OsString::from(command)] };
    let mut config = FrontConfig::under(paths.root(), again("wasm-worker"), again("wasm-compile"));
    config.socket = paths.wasm_socket();
    config.registries = crate::image::registries(args.images);
    config.code_bytes = args.wasm_code_limit;
    front::run(config, memory::give_back)?;
    Ok(())
}

pub(crate) fn worker() -> ExitCode {
    // That of the shim which started it.
    coracle_agent::logging::start_in_file(worker::LOG_FILTER);
    worker::run_on_stdin(memory::collect_when_idle)
}

pub(crate) fn compile(task: &str) -> ExitCode {
    compile::run(task)
}
