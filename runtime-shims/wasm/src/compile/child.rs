//! The compiler process: WebAssembly on its standard input, machine code on its standard output, one line of answer on
//! its standard error. It gives up its rights before it reads a byte.

use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::process::ExitCode;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::{Answer, Task, TaskLimits, kind};
use crate::clock::hex;
use crate::confine::{self, Calls, Limits};

/// Entry of the compiler process. `task` is the argument the front gave it.
pub fn run(task: &str) -> ExitCode {
    let answer = match work(task) {
        Ok(answer) => answer,
        Err(error) => {
            say(&format!("{error}"));
            return ExitCode::FAILURE;
        }
    };
    match serde_json::to_string(&answer.short()) {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn work(task: &str) -> io::Result<Answer> {
    let task: Task = serde_json::from_str(task)?;
    match task.limits {
        None => Ok(Answer::Settings(settings(&task)?)),
        Some(limits) => compile(&task, limits),
    }
}

fn engine(task: &Task, concurrent: bool) -> io::Result<Engine> {
    let engine = task.profile.compiling(task.portable, concurrent);
    engine.map_err(io::Error::other)
}

fn settings(task: &Task) -> io::Result<String> {
    let engine = engine(task, false)?;
    let mut hasher = Stable(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hex(&hasher.0.finalize()[..16]))
}

fn compile(task: &Task, limits: TaskLimits) -> io::Result<Answer> {
    give_up_rights(limits)?;
    let mut wasm = Vec::new();
    io::stdin().read_to_end(&mut wasm)?;
    let facts = match kind::detect(&wasm) {
        Ok(facts) => facts,
        Err(why) => return Ok(Answer::Refused(why)),
    };
    let engine = engine(task, facts.kind.is_concurrent())?;
    let code =
        if facts.kind.is_component() { engine.precompile_component(&wasm) } else { engine.precompile_module(&wasm) };
    let code = match code {
        Ok(code) => code,
        Err(error) => return Ok(Answer::Refused(format!("it is not valid WebAssembly: {}", innermost(&error)))),
    };
    let mut out = io::stdout();
    out.write_all(&code)?;
    out.flush()?;
    Ok(Answer::Compiled(facts))
}

/// Limits first: what follows counts towards them.
fn give_up_rights(limits: TaskLimits) -> io::Result<()> {
    confine::limit(Limits {
        address_space_bytes: Some(limits.memory_bytes),
        cpu_seconds: Some(limits.cpu_seconds),
        file_bytes: Some(2 << 30),
    })?;
    confine::be_nice()?;
    confine::leave_root(None)?;
    confine::die_with_parent()?;
    confine::no_new_privileges()?;
    confine::allow_only(Calls::Compiler)
}

/// The part of an error that says what is wrong and where, without "failed to compile" around it.
fn innermost(error: &wasmtime::Error) -> String {
    error.chain().last().map_or_else(|| error.to_string(), ToString::to_string)
}

#[allow(clippy::print_stderr, reason = "standard error is this process's way to answer")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// The same input gives the same name on every run, which the standard library's hashers do not promise.
struct Stable(Sha256);

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
    }
}
