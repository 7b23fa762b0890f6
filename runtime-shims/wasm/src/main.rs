//! The Wasm shim as a program of its own: `coracle-shim-wasm front DATA_DIR`. Its other commands are for itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use coracle_shim_wasm::compile::{self, Reexec};
use coracle_shim_wasm::engine::Profile;
use coracle_shim_wasm::front::{self, FrontConfig};
use coracle_shim_wasm::images::ConfigFile;
use coracle_shim_wasm::worker;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

const USAGE: &str = "usage: coracle-shim-wasm front DATA_DIR [--insecure-registry HOST[:PORT]]... [--compile-seconds N]
       [--compile-memory-mib N] [--build-id NAME] [--idle-worker-seconds N] [--guest-threads N]
       [--private-registry registries.yaml] [--image-policy policy.yaml] [--code-limit-bytes N]
       [--keyvalue-limit-mib N] [--wasi-0.3 on|off] [--engine roomy|tight|interpreted]

Serves the Kubernetes Container Runtime Interface for WebAssembly on DATA_DIR/wasm.sock.";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let filter = if words.first() == Some(&"worker") { worker::LOG_FILTER } else { "info" };
    let filter: Targets = filter.parse().expect("both are lists of targets");
    registry().with(fmt::layer().with_writer(std::io::stderr).with_filter(filter)).init();
    match words.as_slice() {
        ["worker", _which] => worker::run_on_stdin(|| ()),
        ["compile", task] => compile::run(task),
        ["front", data_dir, options @ ..] => serve(Path::new(data_dir), options),
        _ => misused(),
    }
}

fn misused() -> ExitCode {
    tracing::error!("{USAGE}");
    ExitCode::from(2)
}

fn serve(data_dir: &Path, options: &[&str]) -> ExitCode {
    // Not by its path: after an upgrade another version may be there.
    let again = |command: &str| Reexec { program: PathBuf::from("/proc/self/exe"), args: vec![command.into()] };
    let mut config = FrontConfig::under(data_dir, again("worker"), again("compile"));
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match (*option, options.next()) {
            ("--insecure-registry", Some(host)) => config.registries.insecure.push((*host).to_owned()),
            ("--compile-seconds", Some(text)) if number(text).is_some() => config.compile_seconds = number(text),
            ("--compile-memory-mib", Some(text)) if number(text).is_some() => {
                config.compile_memory_bytes = number(text).map(|mib| mib << 20);
            }
            ("--idle-worker-seconds", Some(text)) if number(text).is_some() => {
                config.idle_worker = Duration::from_secs(number(text).unwrap_or_default());
            }
            ("--engine", Some(name)) if name.parse::<Profile>().is_ok() => config.engine = name.parse().ok(),
            ("--build-id", Some(name)) => config.build = (*name).to_owned(),
            ("--guest-threads", Some(text)) if number(text).is_some() => {
                config.guest_threads = number(text).and_then(|number| usize::try_from(number).ok());
            }
            ("--wasi-0.3", Some(switch)) if ["on", "off"].contains(switch) => config.wasi3 = *switch == "on",
            ("--keyvalue-limit-mib", Some(text)) if number(text).is_some() => {
                config.keyvalue_bytes = number(text).map_or(config.keyvalue_bytes, |mib| mib << 20);
            }
            ("--private-registry", Some(file)) => config.registries.file = ConfigFile::at(*file),
            ("--image-policy", Some(file)) => config.registries.policy = ConfigFile::at(*file),
            ("--code-limit-bytes", Some(text)) => match number(text) {
                Some(limit) => config.code_bytes = limit,
                None => return misused(),
            },
            (_, _) => return misused(),
        }
    }
    match front::run(config, || ()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the Wasm runtime ends");
            ExitCode::FAILURE
        }
    }
}

/// A positive number that can be multiplied.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| (1..1 << 40).contains(number))
}
