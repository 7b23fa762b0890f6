//! A background worker as a core WebAssembly module on WASI 0.1: it reads a file that comes from a ConfigMap, logs what
//! it says, and does so again every few seconds.
//!
//! `MESSAGE_FILE` is the file (default `/etc/worker/message`), `INTERVAL_SECONDS` the pause (default 10), `ROUNDS` how
//! often before it ends (default: for ever). Arguments are logged at the start.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let file = std::env::var("MESSAGE_FILE").unwrap_or_else(|_| "/etc/worker/message".to_owned());
    let pause = number("INTERVAL_SECONDS").unwrap_or(10);
    let rounds = number("ROUNDS");
    let args: Vec<String> = std::env::args().skip(1).collect();
    println!("worker starts: file {file}, arguments {args:?}");
    let mut round = 0;
    while rounds.is_none_or(|rounds| round < rounds) {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(pause));
        }
        round += 1;
        match std::fs::read_to_string(&file) {
            Ok(message) => println!("round {round}: {}", message.trim()),
            Err(error) => {
                eprintln!("cannot read {file}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    println!("worker is done");
    ExitCode::SUCCESS
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
