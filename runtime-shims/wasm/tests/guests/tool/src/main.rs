//! One program that is many commands, by its first argument: as images are that commands are run in.
//!
//! Without one it says `up`, repeats what it reads from its input, line by line, and sleeps on when that ends.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        [] => serve(),
        ["args", ..] => {
            println!("{args:?} GREETING={:?}", std::env::var("GREETING").ok());
            eprintln!("to stderr");
        }
        ["cat"] => {
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(got @ 1..) = std::io::stdin().read(&mut piece) {
                text.extend_from_slice(&piece[..got]);
                std::io::stdout().write_all(&piece[..got]).expect("it is read");
                std::io::stdout().flush().expect("it is read");
            }
            eprintln!("{} bytes", text.len());
        }
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["read", file] => match std::fs::read_to_string(file) {
            Ok(text) => print!("{text}"),
            Err(error) => println!("{error}"),
        },
        ["write", file, text] => std::fs::write(file, text).expect("it can be written"),
        ["flood", bytes] => {
            let line = [b'x'; 1 << 16];
            for _ in 0..bytes.parse::<usize>().expect("a number") / line.len() {
                std::io::stdout().write_all(&line).expect("it is read");
            }
        }
        ["spin", file] => {
            std::fs::write(file, "").expect("it can be written");
            loop {
                std::hint::spin_loop();
            }
        }
        ["grab"] => {
            let mut taken = Vec::new();
            loop {
                taken.push(vec![1_u8; 1 << 20]);
            }
        }
        ["terminal"] => println!("{} {}", std::io::stdin().is_terminal(), std::io::stdout().is_terminal()),
        ["panic"] => panic!("as it was told"),
        other => panic!("{other:?}"),
    }
    ExitCode::SUCCESS
}

fn serve() {
    println!("up");
    for line in std::io::stdin().lock().lines() {
        println!("read {}", line.expect("it is text"));
    }
    println!("no more");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
