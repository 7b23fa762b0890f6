//! `wasmtime serve`, to compare with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use super::load::Client;

pub(crate) const HOW_TO_GET_IT: &str = "not measured: there is no `wasmtime` in $WASMTIME or PATH. To have it:\n    \
     cargo install wasmtime-cli --version ^48 --locked --no-default-features \
     --features serve,run,cranelift,pooling-allocator,parallel-compilation";

pub(crate) struct Serve {
    _child: Child,
    pub(crate) at: SocketAddr,
    pub(crate) version: String,
}

/// $WASMTIME, or `wasmtime` in PATH.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WASMTIME") {
        return Some(PathBuf::from(path));
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join("wasmtime")).find(|path| path.is_file())
}

/// Serves `component` on a loopback address, or says that there is no wasmtime.
pub(crate) async fn start(component: &Path) -> anyhow::Result<Option<Serve>> {
    let Some(program) = program() else { return Ok(None) };
    let version = Command::new(&program).arg("--version").output().await.context("wasmtime --version")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    // It takes no port of the kernel's choice that it would tell.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let child = Command::new(&program)
        .args(["serve", "-Scli", "-Opooling-allocator", "--addr"])
        .arg(free.to_string())
        .arg(component)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(50));
    for _ in 0..600 {
        pause.tick().await;
        if let Ok(mut client) = Client::connect(free, "/").await {
            client.ask().await.context("wasmtime serve")?;
            return Ok(Some(Serve { _child: child, at: free, version }));
        }
    }
    bail!("{} serve does not answer", program.display())
}
