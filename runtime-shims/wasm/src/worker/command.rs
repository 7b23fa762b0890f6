//! Guests that run from start to end: core modules with `_start`, components with `wasi:cli/run`.

use wasmtime::Store;

use super::Shared;
use super::code::Code;
use super::exit;
use super::guest::{Container, Instance};
use crate::wire::Exit;

/// Runs the guest; the future may be dropped to end it.
pub(super) async fn run(shared: &Shared, container: &Container, code: &Code) -> Exit {
    match call(container.store(shared.loader.engine_of(code)), code).await {
        Ok(exit) => exit,
        Err(error) => {
            let exit = exit::of_error(&error);
            if !exit.message.is_empty() {
                container.log.say(&exit.message);
            }
            exit
        }
    }
}

/// Runs `code` in a new instance. `store` is of the engine that `code` was loaded by.
pub(super) async fn call(mut store: Store<Instance>, code: &Code) -> wasmtime::Result<Exit> {
    match code {
        Code::Module(pre) => {
            let instance = pre.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await?;
            Ok(Exit::with_code(0))
        }
        Code::Command(pre) => {
            let command = pre.instantiate_async(&mut store).await?;
            let outcome = command.wasi_cli_run().call_run(&mut store).await?;
            Ok(Exit::with_code(if outcome.is_ok() { 0 } else { 1 }))
        }
        Code::Command3(pre) => {
            let command = pre.instantiate_async(&mut store).await?;
            let running = store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await);
            let outcome = running.await??;
            Ok(Exit::with_code(if outcome.is_ok() { 0 } else { 1 }))
        }
        Code::Http(_) | Code::Http3(_) => Err(wasmtime::format_err!("an HTTP component is not run as a command")),
    }
}
