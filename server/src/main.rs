//! The `coracle` binary: parses the command line and hands over. Everything that works lies in the parts' crates.

mod cli;
mod config;
mod control_plane;
mod image;
mod image_table;
mod manifest;
mod memory;
mod node;
mod paths;
mod progress;
mod ranges;
mod shim;
mod token;
mod up;
mod wasm;

use std::process::ExitCode;

use cli::{Cli, Command, CommonArgs};

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => return failed(&error),
    };
    run(cli).unwrap_or_else(|error| failed(&error))
}

#[expect(clippy::print_stderr, reason = "the one place where the program says why it ends")]
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("coracle: {}", told(error));
    ExitCode::FAILURE
}

/// The error and its causes, each once: many say theirs themselves.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => {
            log(&args.server.common, "warn");
            runtime()?.block_on(up::run(args)).map(done)
        }
        Command::Server(args) => {
            log(&args.common, "info");
            runtime()?.block_on(control_plane::run(args)).map(done)
        }
        Command::Agent(args) => {
            log(&args.common, "info");
            runtime()?.block_on(node::run(args)).map(done)
        }
        Command::Token(args) => token::run(&args).map(done),
        Command::Image(args) => {
            log(&args.common, "warn");
            runtime()?.block_on(image::run(args)).map(done)
        }
        Command::WasmShim(args) => wasm::shim(args).map(done),
        Command::WasmWorker { which: _ } => Ok(wasm::worker()),
        Command::WasmCompile { task } => Ok(wasm::compile(&task)),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Logs to standard error; `RUST_LOG` chooses what, else `--debug` or the command's own level.
fn log(common: &CommonArgs, level: &str) {
    let level = if common.debug { "debug" } else { level };
    coracle_agent::logging::start(&format!("warn,coracle={level}"));
}

/// Every connection, service port and pod takes a descriptor: as many as the host allows.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    raise_descriptor_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("coracle").on_thread_park(memory::give_back).build()
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("the cable is cut");
        let said = anyhow::Error::new(cause()).context("cannot reach a: the cable is cut").context("cannot join a");
        assert_eq!(told(&said), "cannot join a: cannot reach a: the cable is cut");
        assert_eq!(told(&anyhow::Error::new(cause()).context("cannot join a")), "cannot join a: the cable is cut");
    }
}
