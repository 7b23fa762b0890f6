//! From source to WebAssembly, with what `tests/run` has put under `target/languages/`. What is built once is taken from
//! there as long as neither source nor tool changes.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

/// `target/languages`: `venv` and `npm` are the tools', the rest is ours.
fn root() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below target/");
    target.join("languages")
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(path)
}

pub fn c() -> Option<PathBuf> {
    let zig = tool("C", root().join("venv/bin/python-zig"))?;
    built("c", &zig, &[source("c/main.c")], |out| {
        let mut command = Command::new(&zig);
        command.args(["cc", "--target=wasm32-wasi", "-O2", "-o"]).arg(out).arg(source("c/main.c"));
        // Not in the home directory.
        command.env("ZIG_GLOBAL_CACHE_DIR", root().join("zig")).env("ZIG_LOCAL_CACHE_DIR", root().join("zig"));
        command
    })
}

pub fn go() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let go = std::env::split_paths(&paths).map(|dir| dir.join("go")).find(|path| path.is_file());
    let go = tool("Go", go.unwrap_or_else(|| PathBuf::from("go")))?;
    built("go", &go, &[source("go/main.go"), source("go/go.mod")], |out| {
        let mut command = Command::new(&go);
        command.args(["build", "-o"]).arg(out).arg(".").current_dir(source("go"));
        command.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "-mod=mod");
        command
    })
}

pub fn python() -> Option<PathBuf> {
    let componentize = tool("Python", root().join("venv/bin/componentize-py"))?;
    built("python", &componentize, &[source("python/service.py"), source("service.wit")], |out| {
        // It leaves files beside what it reads.
        let dir = root().join("python");
        fs::create_dir_all(&dir).expect("a directory can be made");
        fs::copy(source("python/service.py"), dir.join("service.py")).expect("it can be copied");
        let mut command = Command::new(&componentize);
        command.arg("-d").arg(wit("python")).args(["-w", "service", "componentize", "service", "-o"]).arg(out);
        command.arg("-p").arg(dir);
        command
    })
}

pub fn javascript() -> Option<PathBuf> {
    let componentize = tool("JavaScript", root().join("npm/node_modules/.bin/componentize-js"))?;
    built("javascript", &componentize, &[source("javascript/service.js"), source("service.wit")], |out| {
        let mut command = Command::new(&componentize);
        command.arg(source("javascript/service.js")).arg("-w").arg(wit("javascript")).args(["-n", "service"]);
        // What it uses it imports by itself.
        command.args(["-d", "http", "-d", "fetch-event", "-o"]).arg(out);
        command
    })
}

/// The tool, or a word that it is not there: on the standard error itself, which is not captured.
fn tool(language: &str, path: PathBuf) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    let why = format!("SKIPPED: the guest in {language} is not built: there is no {}", path.display());
    let _ = writeln!(std::io::stderr(), "{why} (./tests/run languages installs what it can)");
    None
}

/// Runs the command that writes the file, unless it is there from before.
fn built(name: &str, tool: &Path, sources: &[PathBuf], command: impl FnOnce(&Path) -> Command) -> Option<PathBuf> {
    let mut hash = Sha256::new();
    // The tool by what it leads to, which an upgrade changes.
    let tool = fs::metadata(tool).expect("it was found");
    hash.update(format!("{:?} {}", tool.modified().expect("files have times here"), tool.len()));
    for source in sources {
        hash.update(fs::read(source).expect("it is in the repository"));
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    fs::create_dir_all(root().join("out")).expect("a directory can be made");
    let out = root().join("out").join(format!("{name}-{digest}.wasm"));
    if !out.is_file() {
        let new = out.with_extension("new.wasm");
        let ran = command(&new).stdin(Stdio::null()).output().expect("the tool starts");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && new.is_file(), "{name} is not built: {said}");
        fs::rename(new, &out).expect("it is there");
    }
    Some(out)
}

/// A directory with the world of the guests and WASI's own interfaces, as wasmtime ships them.
fn wit(name: &str) -> PathBuf {
    let dir = root().join("wit").join(name);
    let deps = dir.join("deps");
    fs::create_dir_all(&deps).expect("a directory can be made");
    fs::copy(source("service.wit"), dir.join("service.wit")).expect("it can be copied");
    for entry in fs::read_dir(wasi_wit()).expect("the interfaces are there").flatten() {
        if entry.path().extension() == Some(OsStr::new("wit")) {
            fs::copy(entry.path(), deps.join(entry.file_name())).expect("it can be copied");
        }
    }
    dir
}

/// Where cargo keeps the interfaces of the wasmtime that this is built with.
fn wasi_wit() -> PathBuf {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo is there");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("cargo answers in JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == "wasmtime-wasi-http").expect("it is used here");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    manifest.parent().expect("a directory").join("wit/deps")
}
