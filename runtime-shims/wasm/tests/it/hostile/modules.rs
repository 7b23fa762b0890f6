//! Modules that are not what they seem, or cost more to compile than they may.

use coracle_cri::v1::*;
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::ImageStore;

use super::neighbour::Neighbour;
use crate::shim::{Pod, Shim, guest, refusal, within};

/// Puts a file into the store under a name, as `coracle image import` does.
fn import(shim: &Shim, name: &str, wasm: &[u8]) -> Result<(), String> {
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    let file = shim.dir.path().join(format!("{name}.wasm"));
    std::fs::write(&file, wasm).expect("it can be written");
    let outcome = store.import(&file, Some(name)).map(drop).map_err(|error| error.to_string());
    std::fs::remove_file(&file).expect("it is there");
    outcome
}

/// A module whose one function has `locals` variables that `loops` loops all change: what the compiler keeps grows with
/// the product.
fn entangled(locals: usize, loops: usize) -> Vec<u8> {
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\")");
    text.push_str(" (local");
    text.push_str(&" i32".repeat(locals));
    text.push(')');
    for at in 0..loops {
        text.push_str(" (loop (br_if 0 (local.get 0))");
        for step in 0..8 {
            let one = (at * 37 + step * 101) % locals;
            let other = (at * 53 + step * 17) % locals;
            text.push_str(&format!(" (local.set {one} (i32.add (local.get {other}) (local.get {one})))"));
        }
        text.push(')');
    }
    text.push_str("))");
    wat::parse_str(text).expect("it is WebAssembly")
}

/// Ordinary code, but much of it.
pub fn long(functions: usize) -> Vec<u8> {
    let body = "(local i32 i32) ".to_owned()
        + &"(local.set 0 (i32.mul (i32.add (local.get 0) (local.get 1)) (i32.load (local.get 1))))".repeat(200);
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\"))");
    for _ in 0..functions {
        text.push_str(&format!("(func {body})"));
    }
    text.push(')');
    wat::parse_str(text).expect("it is WebAssembly")
}

#[tokio::test]
async fn what_takes_too_long_to_compile_is_given_up_and_remembered() {
    let shim = Shim::start_with(&["--compile-seconds", "3"]).await;
    let neighbour = Neighbour::start(&shim).await;
    let sandbox = shim.sandbox("bombs", &[], &[]).await;
    import(&shim, "long", &long(4000)).expect("it is taken in");
    import(&shim, "entangled", &entangled(40_000, 3_000)).expect("it is taken in");
    let mut told = Vec::new();
    // Twice: the second time is answered from memory, which the compiler's log shows.
    for image in ["long", "entangled", "long", "entangled"] {
        told.push(refusal(within("it is refused", shim.create(&sandbox, image, guest(image))).await));
    }
    assert_eq!(told[..2], told[2..]);
    for one in &told {
        assert!(one.starts_with("InvalidArgument: cannot compile image"), "{one}");
        assert!(one.ends_with("compiling it takes more than 3 s of processor time"), "{one}");
    }
    // What is worth compiling still is.
    assert_eq!(shim.ending(&shim.run("after", guest("exit")).await.container).await, r#"42 Error """#);
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn what_takes_too_much_memory_to_compile_is_given_up() {
    let shim = Shim::start_with(&["--compile-memory-mib", "384"]).await;
    let neighbour = Neighbour::start(&shim).await;
    let sandbox = shim.sandbox("bombs", &[], &[]).await;
    import(&shim, "entangled", &entangled(40_000, 3_000)).expect("it is taken in");
    let told = refusal(within("it is refused", shim.create(&sandbox, "entangled", guest("entangled"))).await);
    assert_eq!(
        told,
        "InvalidArgument: cannot compile image \"docker.io/library/entangled:latest\": compiling it takes more than 384 MiB \
         of memory"
    );
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn a_module_with_long_names_does_not_hold_up_the_compiler() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("names", &[], &[]).await;
    let (one, other) = ("a".repeat(100_000), "b".repeat(100_000));
    let wasm = wat::parse_str(format!(r#"(module (func (export "{one}")) (func (export "{other}")))"#));
    import(&shim, "names", &wasm.expect("it is WebAssembly")).expect("it is taken in");
    let told = refusal(within("it is refused", shim.create(&sandbox, "names", guest("names"))).await);
    assert!(told.contains("the module has no `_start` to run (it exports aaa"), "{told}");
    assert!(told.len() < 1000, "{} bytes", told.len());
    assert_eq!(shim.ending(&shim.run("after", guest("exit")).await.container).await, r#"42 Error """#);
}

const SEEDS: [&str; 12] = [
    "exit",
    "trap",
    "spin",
    "bomb",
    "table-bomb",
    "recursion",
    "chatter",
    "flood",
    "opens",
    "stranger",
    "http-trap",
    "command-fails",
];

/// A small generator of chance that gives the same on every run (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("it is small")
    }
}

/// Changed here and there, cut, doubled, or with a part of another in the middle.
fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut wasm = seeds[chance.below(seeds.len())].clone();
    match chance.below(10) {
        0 => wasm.truncate(chance.below(wasm.len())),
        1 => {
            let at = chance.below(8);
            wasm[at] ^= 1 << chance.below(8);
        }
        2 => {
            let other = &seeds[chance.below(seeds.len())];
            let (from, at) = (chance.below(other.len()), chance.below(wasm.len()));
            wasm.splice(at..at, other[from..].iter().copied());
        }
        3 => {
            let at = chance.below(wasm.len());
            wasm.drain(at..(at + 1 + chance.below(16)).min(wasm.len()));
        }
        // Lengths and indices are what decoders trip over: some to the largest number there is.
        4 => {
            let at = chance.below(wasm.len());
            wasm.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        }
        5 => {
            let at = 8 + chance.below(wasm.len() - 8);
            wasm[at] = u8::try_from(chance.below(256)).expect("it is a byte");
        }
        // The next opcode, index, length or letter: often valid, and something else.
        _ => {
            for _ in 0..=chance.below(2) {
                let at = 8 + chance.below(wasm.len() - 8);
                wasm[at] ^= 1;
            }
        }
    }
    wasm
}

#[tokio::test]
async fn mutated_modules_end_in_a_refusal_or_an_exit() {
    const ROUNDS: usize = 150;
    let shim = Shim::start_with(&["--compile-seconds", "20"]).await;
    let neighbour = Neighbour::start(&shim).await;
    let sandbox = shim.sandbox("fuzzed", &[], &[]).await;
    let files = crate::guests::files();
    // By name, in this order: others that are added do not change what this test does.
    let seeds = SEEDS.map(|seed| {
        let (_, file) = files.iter().find(|(name, _)| name == seed).expect("it is one of the guests");
        std::fs::read(file).expect("it can be read")
    });
    let mut chance = Chance(0x5eed_0001_c0ac_1e00);
    let (mut refused, mut unstartable, mut ran) = (0, 0, 0);
    for round in 0..ROUNDS {
        let image = format!("fuzz-{round}");
        if import(&shim, &image, &mutated(&seeds, &mut chance)).is_err() {
            refused += 1;
            continue;
        }
        let created = within("create ends", shim.create(&sandbox, &image, guest(&image).memory(16 << 20))).await;
        let Ok(container) = created else {
            let told = refusal(created);
            assert!(told.starts_with("InvalidArgument: "), "{image}: {told}");
            refused += 1;
            continue;
        };
        match within("start ends", shim.start_container(&container)).await {
            Ok(()) => ran += 1,
            Err(_) => unstartable += 1,
        }
        shim.stop(&container, 0).await;
        shim.exit(&container).await;
        let request = RemoveContainerRequest { container_id: container };
        shim.runtime().remove_container(request).await.expect("it is removed");
        let image = Some(ImageSpec { image, ..ImageSpec::default() });
        shim.images().remove_image(RemoveImageRequest { image }).await.expect("it is removed");
    }
    // All three were met, or the mutations are no longer what they should be.
    assert!(refused > 0 && unstartable > 0 && ran > 0, "{refused} refused, {unstartable} not started, {ran} ran");
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn files_that_are_no_modules_are_refused_by_name() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("magic", &[], &[]).await;
    let mut newer = wat::parse_str("(module (func (export \"_start\")))").expect("it is WebAssembly");
    newer[4] = 2;
    let files: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0"),
        ("script", b"#!/bin/sh\nexit 0\n"),
        ("magic", b"\0asm"),
        ("version", b"\0asm\x09\0\0\0"),
        ("newer", &newer),
        // Sections that claim to be longer than all there is.
        ("lying", b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f"),
        ("billion", b"\0asm\x01\0\0\0\x03\x06\xff\xff\xff\xff\x0f\0"),
    ];
    let mut told = String::new();
    for (name, bytes) in files {
        let line = match import(&shim, name, bytes) {
            Err(why) => format!("import: {why}"),
            Ok(()) => refusal(shim.create(&sandbox, name, guest(name)).await),
        };
        told.push_str(&format!("{name}: {}\n", line.replace(&shim.dir.path().display().to_string(), "DIR")));
    }
    expect_test::expect![[r#"
        empty: import: DIR/empty.wasm is corrupt: it is empty
        elf: import: DIR/elf.wasm is corrupt: it is machine code, not WebAssembly (precompiled files are not accepted)
        script: import: DIR/script.wasm is corrupt: not WebAssembly: it begins with [23, 21, 2f, 62] instead of "\0asm"
        magic: import: DIR/magic.wasm is corrupt: it is cut short
        version: import: DIR/version.wasm is corrupt: WebAssembly of an unknown version [09, 00, 00, 00]
        newer: import: DIR/newer.wasm is corrupt: WebAssembly of an unknown version [02, 00, 00, 00]
        lying: InvalidArgument: cannot run image "docker.io/library/lying:latest": it is not valid WebAssembly: unexpected end-of-file (at offset 0xe)
        billion: InvalidArgument: cannot run image "docker.io/library/billion:latest": it is not valid WebAssembly: function section has non-zero count but code section is absent (at offset 0x10)
    "#]].assert_eq(&told);
}

#[tokio::test]
async fn machine_code_from_outside_is_never_loaded() {
    let shim = Shim::start().await;
    let pod: Pod = shim.run("exit", guest("exit")).await;
    shim.exit(&pod.container).await;
    // What the shim itself compiled, given back to it as an image.
    let code = within("there is code", async {
        let mut dirs = vec![shim.dir.path().join("wasm").join("code")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("it is there").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "cwasm") {
                    return std::fs::read(path).expect("it can be read");
                }
            }
        }
        panic!("no machine code is kept")
    })
    .await;
    let sandbox = shim.sandbox("code", &[], &[]).await;
    let told = match import(&shim, "code", &code) {
        Err(why) => why,
        Ok(()) => refusal(shim.create(&sandbox, "code", guest("code")).await),
    };
    assert!(told.contains("precompiled files are not accepted"), "{told}");
}
