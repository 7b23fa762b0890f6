use std::collections::HashSet;
use std::process::Stdio;

use expect_test::expect;

use super::kind::detect;
use super::*;

fn check(text: &str) -> String {
    let wasm = wat::parse_str(text).expect("it is WebAssembly");
    match detect(&wasm) {
        Ok(facts) => format!("{:?}{}", facts.kind, if facts.uses_keyvalue { " with key-value" } else { "" }),
        Err(why) => why,
    }
}

#[test]
fn a_guest_is_known_by_what_it_exports() {
    let exporting = |interface: &str| {
        format!(
            r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
               (func $f (canon lift (core func $i "f"))) (instance $e (export "f" (func $f)))
               (export "{interface}" (instance $e)))"#
        )
    };
    const IMPORT: &str = r#"(component (import "wasi:keyvalue/store@0.2.0-draft" (instance))"#;
    let nested = r#"(component (core module (func (export "_start"))))"#;
    let shown = [
        check(r#"(module (func (export "_start")))"#),
        check(&exporting("wasi:cli/run@0.2.6")),
        check(&exporting("wasi:http/incoming-handler@0.2.0")),
        check(&exporting("wasi:cli/run@0.2.6").replacen("(component", IMPORT, 1)),
        check(&exporting("wasi:http/handler@0.3.0")),
        check(&exporting("wasi:cli/run@0.3.1")),
        check(&exporting("wasi:cli/run@0.3.0-rc-2025-09-16")),
        check(&exporting("wasi:http/incoming-handler@0.1.0")),
        check(nested),
        check("(module)"),
        detect(b"").map(|_| String::new()).unwrap_or_else(|why| why),
        detect(b"\0asm\x01\0\0").map(|_| String::new()).unwrap_or_else(|why| why),
    ]
    .join("\n");
    expect![[r#"
        Module
        Command
        Http
        Command with key-value
        Http3
        Command3
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports wasi:cli/run@0.3.0-rc-2025-09-16)
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports wasi:http/incoming-handler@0.1.0)
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports nothing)
        the module has no `_start` to run (it exports nothing); build it as a program, not as a library
        it is not valid WebAssembly: unexpected end-of-file (at offset 0x0)
        it is not valid WebAssembly: unexpected end-of-file (at offset 0x4)"#]]
    .assert_eq(&shown);
}

#[test]
fn a_refusal_is_short_however_long_the_names_in_a_file_are() {
    let (one, other) = ("a".repeat(100_000), "é".repeat(50_000));
    let told = check(&format!(r#"(module (func (export "{one}")) (func (export "{other}")))"#));
    let (one, other) = ("a".repeat(100), "é".repeat(100));
    assert_eq!(
        told,
        format!(
            "the module has no `_start` to run (it exports {one}…, {other}…); build it as a program, not as a library"
        )
    );
    match Answer::Refused("é".repeat(100_000)).short() {
        Answer::Refused(why) => assert_eq!(why, "é".repeat(WHY_BYTES / 2)),
        other => panic!("{other:?}"),
    }
}

/// A compiler that is a shell script; the task is its `$0`. The machine code that `good.pub` has signed is believed.
fn scripted(dir: &Path, script: &str) -> Compiler {
    let reexec = Reexec { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
    let limits = TaskLimits { memory_bytes: 1 << 30, cpu_seconds: 0 };
    let policy = dir.join("policy.yaml");
    fs::write(&policy, "precompiledKeys: [good.pub]\n").expect("it can be written");
    Compiler::new(dir.join("code"), reexec, Profile::Roomy, limits, u64::MAX, ConfigFile::at(policy))
        .expect("its directory can be made")
}

#[tokio::test]
async fn a_compiler_that_does_not_stop_talking_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let compiler = scripted(dir.path(), "while :; do echo and another thing >&2; done");
    let task = Task { profile: Profile::Roomy, portable: false, limits: None };
    let ended = compiler.0.child(&task, Stdio::null(), Stdio::null()).await;
    assert_eq!(
        ended.map(|ended| ended.said).map_err(|error| error.to_string()),
        Err("the compiler failed: waiting for the compiler: it says more than an answer may have".to_owned())
    );
}

/// A compiler that is no good, and a file with a line for each start of it.
fn counted(dir: &Path, does: &str) -> (Compiler, PathBuf) {
    let starts = dir.join("starts");
    let script = format!(
        r#"case "$0" in
             *'"limits":null'*) echo '{{"settings":"here"}}' >&2;;
             *) echo >>'{}'; {does};;
           esac"#,
        starts.display()
    );
    (scripted(dir, &script), starts)
}

#[tokio::test]
async fn a_compiler_that_was_killed_is_asked_again() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (compiler, starts) = counted(dir.path(), "kill -9 $$");
    let (store, image) = stored(dir.path());
    for attempts in 1..3 {
        let killed = compiler.compiled(&store, &image).await.map_err(|error| error.to_string());
        assert_eq!(killed, Err("the compiler failed: it was killed, as happens where memory is short".to_owned()));
        let started = fs::read(&starts).expect("it was started");
        assert_eq!(started.len(), attempts);
    }
}

#[tokio::test]
async fn what_was_refused_is_not_compiled_again_though_its_image_went() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (compiler, starts) = counted(dir.path(), r#"echo '{"refused":"it is no good"}' >&2"#);
    let (store, image) = stored(dir.path());
    for _ in 0..3 {
        let refused = compiler.compiled(&store, &image).await.map_err(|error| error.to_string());
        assert_eq!(refused, Err(format!("cannot run image {:?}: it is no good", image.name)));
        // As after each pull.
        compiler.retain(&HashSet::new());
    }
    assert_eq!(fs::read(&starts).expect("it was started").len(), 1);
}

#[tokio::test]
async fn a_refusal_names_the_image_that_was_asked_for() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (compiler, starts) = counted(dir.path(), r#"echo '{"refused":"it is no good"}' >&2"#);
    let (store, image) = stored(dir.path());
    let other = store.tag(&image.name, "other").expect("it is there");
    let refused = async |image: &Image| compiler.compiled(&store, image).await.map_err(|error| error.to_string());
    let told = |image: &Image| Err(format!("cannot run image {:?}: it is no good", image.name));
    assert_eq!(tokio::join!(refused(&image), refused(&other)), (told(&image), told(&other)));
    assert_eq!(refused(&other).await, told(&other));
    assert_eq!(fs::read(&starts).expect("it was started").len(), 1);
}

#[tokio::test]
async fn machine_code_that_comes_with_an_image_runs_though_its_file_was_refused() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (compiler, starts) = counted(dir.path(), r#"echo '{"refused":"it takes too long"}' >&2"#);
    let (store, image) = stored(dir.path());
    let travelled = with_code(dir.path(), &store, &image);
    assert_eq!(travelled.wasm, image.wasm);
    // The same file is being compiled for another image when it is asked for.
    let both = tokio::join!(biased; compiler.compiled(&store, &image), compiler.compiled(&store, &travelled));
    both.0.expect_err("it is refused");
    let compiled = both.1.expect("its machine code is trusted");
    assert_eq!(fs::read(compiler.dir().join(compiled.path)).expect("it is there"), b"machine code");
    assert_eq!(fs::read(&starts).expect("it was started").len(), 1, "nothing was compiled again");
}

/// An image with the same file as another one, and with machine code that `good.pub` has signed.
fn with_code(dir: &Path, store: &ImageStore, same: &Image) -> Image {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let pair = rcgen::KeyPair::generate().expect("a key");
    let key = STANDARD.encode(rcgen::PublicKeyData::subject_public_key_info(&pair));
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n");
    fs::write(dir.join("good.pub"), pem).expect("it can be written");
    let (code, arch) = (Digest::of(b"machine code"), std::env::consts::ARCH);
    let statement = format!(
        "coracle precompiled v1\nwasm {}\ncode {code}\narchitecture {arch}\nengine here\nkind module\n",
        same.wasm
    );
    let signed = STANDARD.encode(rcgen::SigningKey::sign(&pair, statement.as_bytes()).expect("it is signed"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{}","size":2}},
            "layers":[{{"mediaType":"application/wasm","digest":"{}","size":{}}},
            {{"mediaType":"application/vnd.coracle.wasm.precompiled.v1","digest":"{code}","size":12,"annotations":{{
            "dev.coracle.precompiled.architecture":"{arch}","dev.coracle.precompiled.engine":"here",
            "dev.coracle.precompiled.kind":"module","dev.coracle.precompiled.signature":"{signed}"}}}}]}}"#,
        Digest::of(b"{}"),
        same.wasm,
        same.wasm_bytes
    );
    let id = Digest::of(manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"","digest":"{id}","size":1}}]}}"#);
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).expect("it can be written");
    };
    put("index.json", index.as_bytes());
    for content in [manifest.as_bytes(), b"{}", b"machine code"] {
        put(&format!("blobs/sha256/{}", Digest::of(content).hex()), content);
    }
    let file = dir.join("travelled.tar");
    fs::write(&file, archive.into_inner().expect("it can be finished")).expect("it can be written");
    store.import(&file, None).expect("it is taken in").remove(0)
}

#[test]
fn refusals_are_bounded() {
    let mut refusals = Refusals::default();
    let wasm = |number: usize| Digest::of(&number.to_le_bytes());
    for number in 0..=REFUSALS_MAX {
        refusals.add(wasm(number), CompileError::Failed(number.to_string()));
    }
    assert_eq!(refusals.0.len(), REFUSALS_MAX);
    assert!(refusals.of(&wasm(0)).is_none() && refusals.of(&wasm(REFUSALS_MAX)).is_some());
}

/// An image of a module that does nothing.
fn stored(dir: &Path) -> (ImageStore, Image) {
    let store = ImageStore::open(dir.join("images")).expect("it opens");
    let wasm = wat::parse_str(r#"(module (func (export "_start")))"#).expect("it is WebAssembly");
    let file = dir.join("nothing.wasm");
    fs::write(&file, wasm).expect("it can be written");
    let image = store.import(&file, None).expect("it is taken in").remove(0);
    (store, image)
}

/// Code of some settings, as if it had been made for `wasm`: its record and the code, of 10 bytes.
fn put_code(compiler: &Compiler, settings: &str, wasm: &Digest) -> PathBuf {
    let dir = compiler.dir().join(settings);
    fs::create_dir_all(&dir).expect("a directory can be made");
    let code = dir.join(format!("{}.cwasm", wasm.hex()));
    fs::write(&code, [0; 10]).expect("it can be written");
    let facts = Facts { kind: GuestKind::Module, uses_keyvalue: false };
    let record = Record { facts, bytes: 10, travelled_for: None };
    fs::write(code.with_extension("json"), serde_json::to_vec(&record).expect("json")).expect("it can be written");
    code
}

#[test]
fn code_of_images_in_use_does_not_make_room() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let reexec = Reexec { program: "/bin/false".into(), args: Vec::new() };
    let compiler = dir.path().join("code");
    let compiler = Compiler::new(compiler, reexec, Profile::Roomy, TaskLimits::default(), 1, ConfigFile::none());
    let compiler = compiler.expect("its directory can be made");
    let (store, mut image) = stored(dir.path());
    let [program, unused, made] = ["program", "unused", "made"].map(|name| Digest::of(name.as_bytes()));
    image.programs.insert("bin/program.wasm".to_owned(), program.clone());
    store.hold(&image).expect("it is there");
    let codes = [&image.wasm, &program, &unused, &made].map(|wasm| put_code(&compiler, "here", wasm));
    compiler.0.trim("here", &store, &made);
    assert_eq!(codes.each_ref().map(|code| code.exists()), [true, true, false, true]);
    assert!(compiler.kept("here", &store, &image).is_some());
    store.release(&image.id).expect("it can be released");
    compiler.0.trim("here", &store, &made);
    assert_eq!(codes.map(|code| code.exists()), [false, false, false, true]);
}

#[tokio::test]
async fn code_of_settings_that_a_worker_runs_under_is_kept() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let compiler = scripted(dir.path(), r#"echo '{"settings":"present"}' >&2"#);
    let (store, image) = stored(dir.path());
    let codes = ["present", "earlier", "outdated"].map(|settings| put_code(&compiler, settings, &image.wasm));
    compiler.keep_only(&HashSet::from(["earlier".to_owned()])).await.expect("the compiler answers");
    assert_eq!(codes.each_ref().map(|code| code.exists()), [true, true, false]);
    assert_eq!(compiler.compiled(&store, &image).await.expect("it is there").path.parent(), Some(Path::new("present")));
    assert!(codes[1].exists(), "it is not removed by whoever asks for other code");
    compiler.keep_only(&HashSet::new()).await.expect("the compiler answers");
    assert_eq!(codes.map(|code| code.exists()), [true, false, false]);
}
