use std::io::Write;

use expect_test::{Expect, expect};

use super::*;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

struct Bench {
    dir: tempfile::TempDir,
    store: ImageStore,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let store = ImageStore::open_with_clock(dir.path().join("store"), Clock::stepping(1)).expect("it opens");
    Bench { dir, store }
}

impl Bench {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("it can be written");
        path
    }

    fn import(&self, name: &str, content: &[u8], as_name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        self.store.import(&self.file(name, content), as_name)
    }

    fn names(&self) -> Vec<String> {
        self.store.list().expect("it can be read").into_iter().map(|image| image.name).collect()
    }

    fn blobs(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("store/blobs/sha256")).expect("it is there").count()
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ::tar::Builder::new(Vec::new());
    for (path, content) in files {
        archive.append_data(&mut sized(content), path, *content).expect("it can be written");
    }
    archive.into_inner().expect("it can be finished")
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("it can be written");
    encoder.finish().expect("it can be finished")
}

fn check_name(spellings: &[&str], expected: Expect) {
    let shown: String = spellings
        .iter()
        .map(|text| match ImageName::parse(text) {
            Ok(name) => format!("{text} → {name}\n"),
            Err(error) => format!("{text} → {error}\n"),
        })
        .collect();
    expected.assert_eq(&shown);
}

#[test]
fn names_are_spelled_out_as_docker_does() {
    check_name(
        &[
            "hello",
            "hello:dev",
            "team/hello",
            "localhost:5000/hello:1",
            "localhost/hello",
            "[::1]:5000/a/b",
            "ghcr.io/a/b__c-d.e:v1",
            "index.docker.io/library/hello",
            "docker.io/hello",
            "Docker.io/team/hello",
            "GHCR.IO:443/a:V1",
            "registry-1.docker.io/hello",
            "a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "a/b:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "Hello",
            "",
            "hello:",
            "hello:a/b",
            "a//b",
            "a..b",
            "-a",
            "ghcr.io:port/a",
            "ghcr.io:+443/a",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "a@sha256:00",
            "a@sha512:00",
            "../../etc",
        ],
        expect![[r#"
            hello → docker.io/library/hello:latest
            hello:dev → docker.io/library/hello:dev
            team/hello → docker.io/team/hello:latest
            localhost:5000/hello:1 → localhost:5000/hello:1
            localhost/hello → localhost/hello:latest
            [::1]:5000/a/b → [::1]:5000/a/b:latest
            ghcr.io/a/b__c-d.e:v1 → ghcr.io/a/b__c-d.e:v1
            index.docker.io/library/hello → docker.io/library/hello:latest
            docker.io/hello → docker.io/library/hello:latest
            Docker.io/team/hello → docker.io/team/hello:latest
            GHCR.IO:443/a:V1 → ghcr.io:443/a:V1
            registry-1.docker.io/hello → registry-1.docker.io/hello:latest
            a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000 → docker.io/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000
            a/b:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000 → docker.io/a/b:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000
            Hello → invalid image name "Hello": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
             → invalid image name "": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
            hello: → invalid image name "hello:": its tag is not 1 to 128 letters, digits, dots, dashes and underscores
            hello:a/b → invalid image name "hello:a/b": its registry is not a host with an optional port
            a//b → invalid image name "a//b": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
            a..b → invalid image name "a..b": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
            -a → invalid image name "-a": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
            ghcr.io:port/a → invalid image name "ghcr.io:port/a": its registry is not a host with an optional port
            ghcr.io:+443/a → invalid image name "ghcr.io:+443/a": its registry is not a host with an optional port
            0000000000000000000000000000000000000000000000000000000000000000 → invalid image name "0000000000000000000000000000000000000000000000000000000000000000": it is the id of an image, and no name
            a@sha256:00 → invalid image name "a@sha256:00": its digest is not sha256: and 64 hexadecimal digits
            a@sha512:00 → invalid image name "a@sha512:00": its digest is not sha256: and 64 hexadecimal digits
            ../../etc → invalid image name "../../etc": its registry is not a host with an optional port
        "#]],
    );
}

#[test]
fn a_bare_file_becomes_an_image_found_by_any_of_its_names() {
    let bench = bench();
    let images = bench.import("hello.wasm", COMPONENT, Some("hello:dev")).expect("it is taken in");
    let image = &images[0];
    assert_eq!((image.name.as_str(), image.wasm_bytes), ("docker.io/library/hello:dev", 8));
    let id = image.id.to_string();
    for spelling in
        ["hello:dev", "docker.io/library/hello:dev", &id, image.id.hex(), &image.id.hex()[..12], &image.repo_digest()]
    {
        let found = bench.store.get(spelling).expect("it can be read");
        assert_eq!(found.as_ref().map(|found| &found.id), Some(&image.id), "{spelling}");
    }
    for other in ["hello", "hello:other", "other:dev", &format!("other@{id}")] {
        assert_eq!(bench.store.get(other).expect("it can be read"), None, "{other}");
    }
    // Without a name, the file's is taken; the same bytes are the same image.
    let again = bench.import("again.wasm", COMPONENT, None).expect("it is taken in");
    assert_eq!((again[0].name.as_str(), &again[0].id), ("docker.io/library/again:latest", &image.id));
    assert_eq!(bench.blobs(), 3, "the file, a configuration, a manifest");
}

#[test]
fn removing_a_name_keeps_what_another_needs() {
    let bench = bench();
    let id = bench.import("a.wasm", MODULE, None).expect("it is taken in")[0].id.to_string();
    bench.store.tag("a", "b:1").expect("it is there");
    bench.import("c.wasm", COMPONENT, None).expect("it is taken in");
    assert_eq!(bench.store.remove("a").expect("it can be removed"), ["docker.io/library/a:latest"]);
    assert_eq!((bench.names().len(), bench.blobs()), (2, 6));
    assert_eq!(bench.store.remove(&id).expect("it can be removed"), ["docker.io/library/b:1"]);
    assert_eq!((bench.names().len(), bench.blobs()), (1, 3));
    assert!(bench.store.remove("a").expect("it is gone").is_empty());
}

#[test]
fn a_name_that_looks_like_an_id_is_a_name() {
    let bench = bench();
    // Content by content, until two ids begin alike.
    let mut by_digit = std::collections::BTreeMap::new();
    let (first, second) = (0u8..)
        .find_map(|number| {
            let image = bench.import("a.wasm", &[MODULE, &[number]].concat(), Some(&format!("a:{number}")));
            let image = image.expect("it is taken in").remove(0);
            by_digit.insert(image.id.hex()[..1].to_owned(), image.clone()).map(|before| (before, image))
        })
        .expect("there are sixteen digits");
    let both = format!("sha256:{}", &first.id.hex()[..1]);
    for outcome in [bench.store.get(&both).map(drop), bench.store.remove(&both).map(drop)] {
        let error = outcome.expect_err("it could be either").to_string();
        assert_eq!(error, format!("invalid image name \"{both}\": the ids of several images begin so"));
    }
    // What the other's id begins with, as a name.
    let looks_like = &second.id.hex()[..12];
    bench.store.tag(&first.name, looks_like).expect("it is there");
    let found = |text: &str| bench.store.get(text).expect("it can be read").map(|image| image.id);
    assert_eq!(found(looks_like), Some(first.id.clone()));
    assert_eq!(found(&second.id.hex()[..13]), Some(second.id.clone()));
    assert_eq!(
        bench.store.remove(looks_like).expect("it is there"),
        [format!("docker.io/library/{looks_like}:latest")]
    );
    assert_eq!(found(looks_like), Some(second.id));
    assert_eq!(found(&first.name), Some(first.id));
}

#[test]
fn content_is_not_collected_while_somebody_adds() {
    let bench = bench();
    bench.import("a.wasm", MODULE, None).expect("it is taken in");
    let adding = bench.store.blobs.adding().expect("it can be locked");
    bench.store.blobs.put("new", b"not named yet").expect("it can be written");
    bench.store.remove("a").expect("it can be removed");
    assert_eq!(bench.blobs(), 4);
    drop(adding);
    bench.import("b.wasm", COMPONENT, None).expect("it is taken in");
    bench.store.remove("b").expect("it can be removed");
    assert_eq!(bench.blobs(), 0);
}

#[test]
fn a_torn_record_or_a_missing_blob_is_an_absent_image() {
    let bench = bench();
    let image = bench.import("a.wasm", MODULE, None).expect("it is taken in").remove(0);
    bench.import("b.wasm", COMPONENT, None).expect("it is taken in");
    let record = bench.store.ref_path(&image.name);
    let text = std::fs::read(&record).expect("it is there");
    std::fs::write(&record, &text[..text.len() / 2]).expect("it can be written");
    assert_eq!(bench.names(), ["docker.io/library/b:latest"]);
    std::fs::write(&record, text).expect("it can be written");
    std::fs::remove_file(bench.store.blobs.path(&image.wasm)).expect("it is there");
    assert_eq!(bench.store.get("a").expect("it can be read"), None);
    bench.import("a.wasm", MODULE, None).expect("it is taken in anew");
    assert_eq!(bench.names().len(), 2);
}

#[test]
fn half_written_files_are_cleared_when_nobody_writes() {
    let bench = bench();
    let torn = bench.dir.path().join("store/tmp/torn");
    std::fs::write(&torn, "half").expect("it can be written");
    let adding = bench.store.blobs.adding().expect("it can be locked");
    ImageStore::open(bench.dir.path().join("store")).expect("it opens");
    assert!(torn.exists(), "somebody else is writing");
    drop(adding);
    ImageStore::open(bench.dir.path().join("store")).expect("it opens");
    assert!(!torn.exists());
}

#[test]
fn what_is_no_webassembly_is_refused() {
    let bench = bench();
    let mut shown = String::new();
    for (name, content) in [
        ("script.wasm", b"#!/bin/sh\n".as_slice()),
        ("empty.wasm", b""),
        ("cut.wasm", b"\0asm"),
        ("future.wasm", b"\0asm\x02\0\0\0"),
        ("code.wasm", b"\x7fELF\x02"),
        ("text.txt", b"hello"),
        ("zstd.tar", b"\x28\xb5\x2f\xfdrest"),
    ] {
        let error = bench.import(name, content, None).expect_err(name);
        shown.push_str(&format!("{error}\n").replace(&format!("{}/", bench.dir.path().display()), ""));
    }
    expect![[r#"
        script.wasm is corrupt: not WebAssembly: it begins with [23, 21, 2f, 62] instead of "\0asm"
        empty.wasm is corrupt: it is empty
        cut.wasm is corrupt: it is cut short
        future.wasm is corrupt: WebAssembly of an unknown version [02, 00, 00, 00]
        code.wasm is corrupt: it is machine code, not WebAssembly (precompiled files are not accepted)
        text.txt is corrupt: neither WebAssembly nor a readable tar archive: failed to read entire block
        zstd.tar is corrupt: it is compressed with zstd, which is not supported; use gzip
    "#]]
    .assert_eq(&shown);
    assert_eq!((bench.names().len(), bench.blobs()), (0, 0));
}

/// What `docker save` writes, of an image with these layers.
fn docker_save(config: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let list = format!(r#"[{{"Config":"config.json","RepoTags":["team/app:v1","app:latest"],"Layers":{names:?}}}]"#);
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes()), ("manifest.json", list.as_bytes())];
    for (name, layer) in names.iter().zip(layers) {
        files.push((name, layer));
    }
    tar(&files)
}

#[test]
fn docker_archives_give_the_file_their_entrypoint_names() {
    let bench = bench();
    let config = r#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/app/main.wasm","--serve"],"Env":["A=1"],"WorkingDir":"/app"}}"#;
    let layers = [
        tar(&[("app/main.wasm", MODULE), ("app/other.wasm", MODULE)]),
        gzip(&tar(&[("./app/main.wasm", COMPONENT), ("etc/passwd", b"root")])),
    ];
    let images = bench.import("app.tar.gz", &gzip(&docker_save(config, &layers)), None).expect("it is taken in");
    assert_eq!(bench.names(), ["docker.io/library/app:latest", "docker.io/team/app:v1"]);
    let image = &images[0];
    assert_eq!(image.wasm, Digest::of(COMPONENT), "the upper layer's file");
    assert_eq!((image.entrypoint.join(" "), image.working_dir.as_str()), ("/app/main.wasm --serve".to_owned(), "/app"));
    assert_eq!(image.env, ["A=1"]);
    assert_eq!(images[1].imported_at, image.imported_at, "a second name costs no second unpacking");
}

#[test]
fn layers_that_have_no_such_file_are_refused() {
    let bench = bench();
    let entry = r#"{"os":"linux","architecture":"amd64","config":{"Cmd":["main.wasm"]}}"#;
    let platform = r#"{"os":"wasi","architecture":"wasm"}"#;
    let linux = r#"{"os":"linux","architecture":"arm64","config":{"Entrypoint":["/bin/sh"]}}"#;
    let mut shown = String::new();
    for (config, layers) in [
        (entry, vec![tar(&[("other.wasm", MODULE)])]),
        (entry, vec![tar(&[("main.wasm", MODULE)]), tar(&[(".wh.main.wasm", b"")])]),
        (platform, vec![tar(&[("a.wasm", MODULE), ("b.wasm", MODULE)])]),
        (platform, vec![tar(&[("readme", b"nothing here")])]),
        (linux, vec![tar(&[("bin/sh", b"ELF")])]),
        (entry, vec![b"not a tar, but long enough to look like one".repeat(40)]),
    ] {
        let error = bench.import("app.tar", &docker_save(config, &layers), None).expect_err("it is refused");
        let text = error.to_string();
        let text = text
            .split("sha256:")
            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
            .collect::<String>();
        shown.push_str(&format!("{text}\n"));
    }
    expect![[r#"
        "docker.io/team/app:v1" is not a WebAssembly image: no layer has its entrypoint "main.wasm"
        "docker.io/team/app:v1" is not a WebAssembly image: no layer has its entrypoint "main.wasm"
        "docker.io/team/app:v1" is not a WebAssembly image: it has several .wasm files (a.wasm, b.wasm) and no entrypoint that names one
        "docker.io/team/app:v1" is not a WebAssembly image: no layer has a .wasm file
        "docker.io/team/app:v1" is not a WebAssembly image: its entrypoint is no .wasm file and its platform not wasi/wasm (configuration application/vnd.oci.image.config.v1+json for linux/arm64; layers application/vnd.oci.image.layer.v1.tar). Accepted are a layer of type application/wasm or application/vnd.wasm.content.layer.v1+wasm or application/vnd.bytecodealliance.wasm.component.layer.v0+wasm, a platform of wasi/wasm, or an entrypoint that is a .wasm file
        layer  of docker.io/team/app:v1 is corrupt: numeric field was not a number:  enough  when getting cksum for not a tar, but long enough to look like onenot a tar, but long enough to look like onenot a tar, but
    "#]].assert_eq(&shown);
}

#[test]
fn oci_layouts_are_read_and_verified() {
    let bench = bench();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{}","size":2}},
            "layers":[{{"mediaType":"application/wasm","digest":"{}","size":8}}]}}"#,
        Digest::of(b"{}"),
        Digest::of(MODULE),
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}",
            "size":{},"annotations":{{"io.containerd.image.name":"ghcr.io/team/app:v2"}}}}]}}"#,
        Digest::of(manifest.as_bytes()),
        manifest.len(),
    );
    let blob = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    let whole: Vec<(String, &[u8])> = vec![
        ("index.json".to_owned(), index.as_bytes()),
        (blob(manifest.as_bytes()), manifest.as_bytes()),
        (blob(b"{}"), b"{}"),
        (blob(MODULE), MODULE),
    ];
    let archive = |files: &[(String, &[u8])]| {
        tar(&files.iter().map(|(name, content)| (name.as_str(), *content)).collect::<Vec<_>>())
    };
    bench.import("layout.tar", &archive(&whole), None).expect("it is taken in");
    assert_eq!(bench.names(), ["ghcr.io/team/app:v2"]);

    let incomplete = bench.import("cut.tar", &archive(&whole[..3]), Some("cut:1"));
    assert!(incomplete.is_ok(), "the missing blob is in the store already");
    bench.store.remove("cut:1").expect("it can be removed");
    bench.store.remove("ghcr.io/team/app:v2").expect("it can be removed");
    let incomplete = bench.import("cut.tar", &archive(&whole[..3]), Some("cut:1")).expect_err("it is refused");
    assert!(incomplete.to_string().contains("is missing from the archive"), "{incomplete}");
    let mut lying = whole.clone();
    lying[3].1 = COMPONENT;
    let lying = bench.import("lying.tar", &archive(&lying), None).expect_err("it is refused");
    assert!(lying.to_string().contains("its digest is"), "{lying}");
}

/// An OCI layout of [`MODULE`] under these names, as a tar, and the digests of its manifest and of the list of platforms
/// that names that.
fn layout(names: &[&str]) -> (Vec<u8>, Digest, Digest) {
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{}","size":2}},
            "layers":[{{"mediaType":"application/wasm","digest":"{}","size":8}}]}}"#,
        Digest::of(b"{}"),
        Digest::of(MODULE),
    );
    let listed = |digest: &Digest, more: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":1,{more}}}"#)
    };
    let index = |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let id = Digest::of(manifest.as_bytes());
    let platforms = index(&[listed(&id, r#""platform":{"os":"wasi","architecture":"wasm"}"#)]);
    let list = Digest::of(platforms.as_bytes());
    let named = |name: &&str| listed(&list, &format!(r#""annotations":{{"io.containerd.image.name":"{name}"}}"#));
    let index = index(&names.iter().map(named).collect::<Vec<_>>());
    let blob = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    let files = [
        ("index.json".to_owned(), index.as_bytes()),
        (blob(platforms.as_bytes()), platforms.as_bytes()),
        (blob(manifest.as_bytes()), manifest.as_bytes()),
        (blob(b"{}"), b"{}".as_slice()),
        (blob(MODULE), MODULE),
    ];
    (tar(&files.iter().map(|(name, content)| (name.as_str(), *content)).collect::<Vec<_>>()), id, list)
}

#[test]
fn a_name_with_a_digest_is_of_that_content() {
    let bench = bench();
    let (plain, id, list) = layout(&["ghcr.io/team/app:v2"]);
    for digest in [&id, &list] {
        let name = format!("ghcr.io/team/app@{digest}");
        let (said, _, _) = layout(&[&name]);
        bench.import("layout.tar", &said, None).expect("it says so itself");
        bench.import("layout.tar", &plain, Some(&name)).expect("it is called so");
        assert_eq!(bench.names(), [name.as_str()]);
        bench.store.remove(&name).expect("it can be removed");
    }
    let other = format!("ghcr.io/team/app:v1@{}", Digest::of(b"other"));
    let docker = docker_save(r#"{"os":"wasi","architecture":"wasm"}"#, &[tar(&[("a.wasm", MODULE)])]);
    for (file, content, name) in [
        ("layout.tar", &layout(&[&other]).0, None),
        ("layout.tar", &plain, Some(other.as_str())),
        ("docker.tar", &docker, Some(&other)),
        ("bare.wasm", &MODULE.to_vec(), Some(&other)),
    ] {
        let error = bench.import(file, content, name).expect_err(file).to_string();
        assert!(error.contains(&format!("it has {other} as a name of another image, sha256:")), "{error}");
    }
    assert_eq!((bench.names().len(), bench.blobs()), (0, 0));
    bench.import("layout.tar", &plain, None).expect("it is taken in");
    bench.store.tag("ghcr.io/team/app:v2", &format!("a@{id}")).expect("it has this digest");
    let error = bench.store.tag("ghcr.io/team/app:v2", &other).expect_err("it has another");
    assert!(error.to_string().contains(&format!("its digest is not that of ghcr.io/team/app:v2, {id}")), "{error}");
}

#[test]
fn an_archive_does_not_fill_the_store_with_names_or_content() {
    let bench = bench();
    let names: Vec<String> = (0..=100).map(|number| format!("app:v{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = bench.import("many.tar", &layout(&names).0, None).expect_err("too many");
    assert!(error.to_string().ends_with("many.tar is corrupt: it has more than 100 names of images"), "{error}");
    assert_eq!((bench.names().len(), bench.blobs()), (0, 0), "nothing is kept");

    // No file, so that nothing of it is written, but it has to be read.
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Fifo);
    header.set_size(4 << 30);
    header.set_cksum();
    let path = bench.file("bomb.tar", header.as_bytes());
    let file = File::options().write(true).open(&path).expect("it is there");
    file.set_len((4 << 30) + 1024).expect("it has holes");
    let error = bench.store.import(&path, None).expect_err("too much");
    assert!(matches!(error, ImageError::TooLarge { limit_bytes: 0x1_0000_0000, .. }), "{error}");
}

#[test]
fn an_archive_does_not_fill_memory_with_paths_or_the_disk_with_work() {
    let bench = bench();
    let long = "d/".repeat(2048) + "a";
    let mut link = ::tar::Builder::new(Vec::new());
    link.append_link(&mut symlink(), "link", &long).expect("it can be written");
    for archive in [tar(&[(&long, b"")]), link.into_inner().expect("it can be finished")] {
        let error = bench.import("long.tar", &archive, None).expect_err("too long").to_string();
        assert!(error.ends_with("long.tar is corrupt: a path in it is longer than 4096 bytes"), "{error}");
    }
    // One name, again and again. It counts whatever it is, and of this nothing is written.
    let one = &tar(&[("index.json", b"{}")])[..1024];
    let error = bench.import("many.tar", &[&one.repeat(10_001)[..], &[0; 1024]].concat(), None).expect_err("too many");
    assert!(error.to_string().ends_with("many.tar is corrupt: it has more than 10000 files"), "{error}");
}

fn symlink() -> ::tar::Header {
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    header
}

#[test]
fn layers_that_images_of_an_archive_share_may_be_links() {
    let bench = bench();
    let config = r#"{"os":"wasi","architecture":"wasm"}"#;
    let layer = tar(&[("main.wasm", MODULE)]);
    let import = |link: &str| {
        let list = r#"[{"Config":"c.json","RepoTags":["one"],"Layers":["1/layer.tar"]},
                       {"Config":"c.json","RepoTags":["two"],"Layers":["2/layer.tar"]}]"#;
        let mut archive = ::tar::Builder::new(Vec::new());
        for (path, content) in [("c.json", config), ("manifest.json", list)] {
            archive.append_data(&mut sized(content.as_bytes()), path, content.as_bytes()).expect("it can be written");
        }
        archive.append_data(&mut sized(&layer), "1/layer.tar", &layer[..]).expect("it can be written");
        archive.append_link(&mut symlink(), "2/layer.tar", link).expect("it can be written");
        bench.import("save.tar", &archive.into_inner().expect("it can be finished"), None)
    };
    for elsewhere in ["../3/layer.tar", "../../1/layer.tar", "/1/layer.tar"] {
        let error = import(elsewhere).expect_err(elsewhere).to_string();
        assert!(error.ends_with("it has no file \"2/layer.tar\""), "{error}");
    }
    let images = import("../1/layer.tar").expect("it is taken in");
    assert_eq!(bench.names(), ["docker.io/library/one:latest", "docker.io/library/two:latest"]);
    assert_eq!(images[0].id, images[1].id);
}

fn sized(content: &[u8]) -> ::tar::Header {
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header
}

#[test]
fn an_archive_that_was_changed_or_cut_is_refused_or_as_it_was() {
    let bench = bench();
    let (whole, _, _) = layout(&["ghcr.io/team/app:v2"]);
    let (mut refused, mut taken) = (0, 0);
    let damaged = (0..whole.len()).step_by(61).flat_map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        [changed, whole[..at].to_vec()]
    });
    for content in damaged {
        match bench.import("damaged.tar", &content, Some("damaged:1")) {
            Ok(images) => {
                taken += 1;
                assert!(images.iter().all(|image| image.wasm == Digest::of(MODULE)));
                bench.store.remove("damaged:1").expect("it can be removed");
            }
            Err(_) => refused += 1,
        }
        assert_eq!((bench.names().len(), bench.blobs()), (0, 0), "nothing is kept");
    }
    assert!(refused > 50 && taken > 0, "{refused} refused, {taken} taken");
}

#[test]
fn a_directory_of_archives_is_read_once() {
    let bench = bench();
    let dir = bench.dir.path().join("archives");
    let look = || {
        let outcomes = bench.store.import_dir(&dir).expect("it can be read");
        outcomes
            .iter()
            .map(|Imported { file, outcome }| {
                let file = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                format!("{file} {}", if outcome.is_ok() { "in" } else { "bad" })
            })
            .collect::<Vec<_>>()
    };
    assert!(look().is_empty(), "there is no such directory");
    std::fs::create_dir(&dir).expect("a directory can be made");
    std::fs::write(dir.join("good.wasm"), MODULE).expect("it can be written");
    std::fs::write(dir.join("bad.wasm"), "bad").expect("it can be written");
    std::fs::write(dir.join(".hidden.wasm"), MODULE).expect("it can be written");
    assert_eq!(look(), ["bad.wasm bad", "good.wasm in"]);
    assert!(look().is_empty());
    std::fs::write(dir.join("bad.wasm"), COMPONENT).expect("it can be written");
    assert_eq!(look(), ["bad.wasm in"]);
    bench.store.remove("good").expect("it can be removed");
    assert_eq!(look(), ["good.wasm in"], "an image that was removed comes back while its archive lies here");
}

#[test]
fn what_is_being_written_is_not_taken_for_somebodys_rest() {
    let bench = bench();
    let dir = bench.dir.path().join("archives");
    std::fs::create_dir(&dir).expect("a directory can be made");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                ImageStore::open(bench.dir.path().join("store")).expect("it opens");
            }
        });
        let outcomes: Result<Vec<Image>, ImageError> = (0..50)
            .map(|number| {
                std::fs::write(dir.join(format!("{number}.wasm")), MODULE).expect("it can be written");
                bench.store.import_dir(&dir)?;
                bench.store.tag(&number.to_string(), "other")
            })
            .collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcomes.expect("all of it is written");
    });
    assert_eq!(bench.names().len(), 51);
}

/// An image of a file system in which nothing is called but `main.wasm` and `other.wasm`.
fn with_two_programs(bench: &Bench) -> Image {
    let config = r#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["main.wasm"]}}"#;
    let layers = [tar(&[("main.wasm", MODULE), ("other.wasm", COMPONENT)])];
    bench.import("two.tar", &docker_save(config, &layers), Some("two")).expect("it is taken in").remove(0)
}

#[tokio::test]
async fn layers_are_not_read_again_for_what_is_not_there_or_was_taken_out() {
    let bench = bench();
    let image = with_two_programs(&bench);
    bench.store.hold(&image).expect("it is there");
    let programs = bench.store.programs(&image).await.expect("they can be read");
    assert_eq!(programs.paths, ["main.wasm", "other.wasm"]);
    assert_eq!(bench.store.program(&image, "other.wasm").await.expect("it is there").wasm, Digest::of(COMPONENT));
    for blob in image.blobs.iter().filter(|blob| bench.store.blobs.len(blob).expect("it is there") > 1024) {
        std::fs::write(bench.store.blobs.path(blob), "no layer").expect("it can be written");
    }
    assert_eq!(bench.store.programs(&image).await.expect("they are known").paths, programs.paths);
    // As this asker knows it, nothing was taken out of it.
    assert!(image.programs.is_empty());
    assert_eq!(bench.store.program(&image, "other.wasm").await.expect("it is there").wasm, Digest::of(COMPONENT));
    bench.store.program(&image, "main.wasm").await.expect_err("it would have to be read");
}

#[test]
fn images_have_a_bounded_number_of_layers() {
    let bench = bench();
    let config = r#"{"os":"wasi","architecture":"wasm","config":{"Entrypoint":["main.wasm"]}}"#;
    let layers = vec![tar(&[("main.wasm", MODULE)]); 129];
    bench.import("most.tar", &docker_save(config, &layers[1..]), Some("most")).expect("it is taken in");
    // Found before the manifest is made: it is none of these files that is missed.
    let list = format!(r#"[{{"Config":"config.json","Layers":{:?}}}]"#, vec!["nothing"; 129]);
    let archive = tar(&[("config.json", config.as_bytes()), ("manifest.json", list.as_bytes())]);
    let error = bench.import("many.tar", &archive, Some("many")).expect_err("it is refused").to_string();
    assert_eq!(
        error.replace(&bench.dir.path().display().to_string(), "DIR"),
        "the manifest of an image in DIR/many.tar is corrupt: it has 129 layers, and an image has 128 at most"
    );
}

#[test]
fn only_images_of_webassembly_are_held_to_their_bounds() {
    let media_type = "application/vnd.oci.image.config.v1+json";
    let descriptor = |media_type: &str| {
        let digest = Digest::of(b"");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1}}"#)
    };
    let manifest = |layers: usize| {
        let layers = vec![descriptor("layer"); layers].join(",");
        let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, descriptor(media_type));
        manifest::single("app", text.as_bytes()).expect("a manifest")
    };
    let env = "v".repeat((128 << 10) + 1);
    let config = |platform: &str| format!(r#"{{{platform},"config":{{"Env":["{env}"]}}}}"#);
    for layers in [1, 129] {
        let judged = |platform: &str, env: bool| {
            let config = if env { config(platform) } else { format!("{{{platform}}}") };
            let config = manifest::config("app", config.as_bytes()).expect("a configuration");
            manifest::anatomy("app", &manifest(layers), config).map(drop)
        };
        let (linux, wasi) = (r#""os":"linux","architecture":"amd64""#, r#""os":"wasi","architecture":"wasm""#);
        assert!(matches!(judged(linux, true), Err(ImageError::NotWasm { .. })));
        assert!(matches!(judged(wasi, true), Err(ImageError::Corrupt { .. })));
        assert_eq!(judged(wasi, false).is_ok(), layers == 1);
    }
}

#[test]
fn what_an_image_is_run_with_is_bounded() {
    let bench = bench();
    let import = |words: usize, bytes: usize| {
        let (cmd, env) = (vec![""; words], "v".repeat(bytes));
        let config = format!(r#"{{"os":"wasi","architecture":"wasm","config":{{"Cmd":{cmd:?},"Env":["{env}"]}}}}"#);
        let layers = [tar(&[("main.wasm", MODULE)])];
        bench.import("run.tar", &docker_save(&config, &layers), Some("run")).map_err(|error| error.to_string())
    };
    import(4095, 128 << 10).expect("it is taken in");
    let told = [import(4096, 1), import(1, (128 << 10) + 1)].map(|outcome| outcome.expect_err("it is refused"));
    expect![[r#"
        the configuration of docker.io/library/run:latest is corrupt: its entrypoint, command, environment and working directory have 4097 words and 1 bytes; 4096 words and 131072 bytes are most
        the configuration of docker.io/library/run:latest is corrupt: its entrypoint, command, environment and working directory have 2 words and 131073 bytes; 4096 words and 131072 bytes are most"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn refusals_are_short_however_much_an_image_has() {
    let bench = bench();
    let platform = r#"{"os":"wasi","architecture":"wasm"}"#;
    let names: Vec<String> = (100..200).map(|number| format!("{number}.wasm")).collect();
    let layer = tar(&names.iter().map(|name| (name.as_str(), MODULE)).collect::<Vec<_>>());
    let long = format!(r#"{{"config":{{"Cmd":["{}.wasm"]}}}}"#, "c".repeat(100_000));
    let mut told = String::new();
    for config in [platform, &long] {
        let error = bench
            .import("app.tar", &docker_save(config, std::slice::from_ref(&layer)), None)
            .expect_err("it is refused");
        told.push_str(&error.to_string().replace(&"c".repeat(100), "CCC"));
        told.push('\n');
    }
    let descriptor = |number: usize| {
        let (digest, big) = (Digest::of(b""), "b".repeat(1000));
        format!(
            r#"{{"mediaType":"{number}","digest":"{digest}","size":1,"platform":{{"os":"{number}","architecture":"{big}"}}}}"#
        )
    };
    let list = |from: fn(usize) -> usize| (0..100).map(from).map(descriptor).collect::<Vec<_>>().join(",");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list(|number| number));
    let index = serde_json::from_str(&index).expect("an index");
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(0), list(|number| number % 2));
    let manifest = manifest::single("app", manifest.as_bytes()).expect("a manifest");
    for error in [
        manifest::choose("app", &index).expect_err("it is refused"),
        manifest::anatomy("app", &manifest, Default::default()).expect_err("it is refused"),
    ] {
        let short = error.to_string().replace(&"b".repeat(98), "BBB");
        told.push_str(short.split(". Accepted").next().unwrap_or_default());
        told.push('\n');
    }
    expect![[r#"
        "docker.io/team/app:v1" is not a WebAssembly image: it has several .wasm files (100.wasm, 101.wasm, 102.wasm, 103.wasm, 104.wasm, 105.wasm, 106.wasm, 107.wasm and 92 more) and no entrypoint that names one
        "docker.io/team/app:v1" is not a WebAssembly image: no layer has its entrypoint "CCC…"
        "app" is not a WebAssembly image: it is offered for 0/BBB…, 1/BBB…, 2/BBB…, 3/BBB…, 4/BBB…, 5/BBB…, 6/BBB…, 7/BBB… and 92 more, not for wasi/wasm
        "app" is not a WebAssembly image: no layer is a Wasm file (configuration 0; layers 0, 1)
    "#]].assert_eq(&told);
}
