//! Uses what a guest can keep and be told, and says what came of it. Each argument is something to do, with its words
//! separated by colons:
//!
//! `config:KEY` · `configs` · `set:BUCKET:KEY:VALUE` · `get:BUCKET:KEY` · `delete:BUCKET:KEY` · `keys:BUCKET` ·
//! `add:BUCKET:KEY:TIMES` (adds one, so many times) · `many:BUCKET` (sets, gets and deletes several) · `fill:BUCKET` (sets
//! values of a megabyte until it is refused) · `buckets:N` (opens so many with long names) · `again:BUCKET:N` (reads one large
//! value so many times in one call) · `count:BUCKET:KEY` (adds one for ever, and says each) · `cwd` · `read:PATH` · `wait` (until the input ends)

use std::io::Read;

wit_bindgen::generate!({ path: "../../../wit", world: "state", generate_all });

use wasi::config::store as config;
use wasi::keyvalue::{atomics, batch, store};

// The linker makes every export of a command set up the C library anew unless somebody asks for that himself; the host
// calls one of them in the middle of a call, when it must not call back.
unsafe extern "C" {
    fn __wasm_call_ctors();
}

fn main() {
    // SAFETY: it is the first thing that is done.
    unsafe { __wasm_call_ctors() };
    for argument in std::env::args().skip(1) {
        let words: Vec<&str> = argument.split(':').collect();
        let said = match words.as_slice() {
            ["config", key] => format!("{:?}", config::get(key)),
            ["configs"] => format!("{:?}", config::get_all()),
            ["set", bucket, key, value] => format!("{:?}", open(bucket).set(key, value.as_bytes())),
            ["get", bucket, key] => shown(open(bucket).get(key)),
            ["delete", bucket, key] => format!("{:?} {:?}", open(bucket).delete(key), open(bucket).exists(key)),
            ["keys", bucket] => format!("{:?}", open(bucket).list_keys(None)),
            ["add", bucket, key, times] => {
                let bucket = open(bucket);
                let times: u32 = times.parse().expect("a number");
                format!("{:?}", (0..times).map(|_| atomics::increment(&bucket, key, 1)).last())
            }
            ["many", bucket] => many(&open(bucket)),
            ["fill", bucket] => fill(&open(bucket)),
            ["buckets", count] => buckets(number(count)),
            ["again", bucket, times] => again(&open(bucket), number(times)),
            ["count", bucket, key] => count(&open(bucket), key),
            ["cwd"] => format!("{:?} PWD={:?}", std::env::current_dir(), std::env::var("PWD")),
            ["read", path] => format!("{:?}", std::fs::read_to_string(path)),
            ["wait"] => {
                println!("waits");
                let mut input = String::new();
                std::io::stdin().read_to_string(&mut input).expect("text");
                format!("{input:?}")
            }
            other => panic!("{other:?}"),
        };
        println!("{argument}: {said}");
    }
}

fn open(bucket: &str) -> store::Bucket {
    store::open(bucket).expect("there is a store")
}

fn shown(value: Result<Option<Vec<u8>>, store::Error>) -> String {
    format!("{:?}", value.map(|value| value.map(|value| String::from_utf8_lossy(&value).into_owned())))
}

fn many(bucket: &store::Bucket) -> String {
    let pair = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    let set = batch::set_many(bucket, &[pair("a", "1"), pair("b", "2"), pair("c", "3")]);
    let deleted = batch::delete_many(bucket, &["b".to_owned(), "never".to_owned()]);
    let got = batch::get_many(bucket, &["a".to_owned(), "b".to_owned(), "c".to_owned()]);
    format!("{set:?} {deleted:?} {got:?}")
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn buckets(count: usize) -> String {
    let name = "b".repeat(1 << 20);
    let opened: Vec<_> = (0..count).map(|_| store::open(&name)).collect();
    let held = opened.iter().filter(|one| one.is_ok()).count();
    format!("{held} {:?}", opened.into_iter().find_map(Result::err))
}

fn again(bucket: &store::Bucket, times: usize) -> String {
    bucket.set("large", &vec![7; 4 << 20]).expect("it fits");
    let got = batch::get_many(bucket, &vec!["large".to_owned(); times]);
    format!("{:?}", got.map(|values| values.len()))
}

fn count(bucket: &store::Bucket, key: &str) -> String {
    loop {
        match atomics::increment(bucket, key, 1) {
            Ok(now) => println!("{now}"),
            Err(error) => return format!("{error:?}"),
        }
    }
}

fn fill(bucket: &store::Bucket) -> String {
    let value = vec![7; 1 << 20];
    for number in 0.. {
        if let Err(error) = bucket.set(&format!("filler-{number}"), &value) {
            return format!("{number} {error:?}");
        }
    }
    unreachable!("a store has a limit")
}
