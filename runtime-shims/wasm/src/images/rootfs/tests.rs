use expect_test::{Expect, expect};
use tar::{EntryType, Header};

use super::*;

/// A layer of `PATH=CONTENT`, `PATH->TARGET` (a symbolic link), `PATH=>TARGET` (a hard one), `DIR/` and bare paths (empty
/// files).
fn layer(text: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for word in text.split_whitespace() {
        let split = |by| word.split_once(by);
        let (kind, path, target, content) = if let Some((path, target)) = split("->") {
            (EntryType::Symlink, path, target, "")
        } else if let Some((path, target)) = split("=>") {
            (EntryType::Link, path, target, "")
        } else if let Some((path, content)) = split("=") {
            (EntryType::Regular, path, "", content)
        } else {
            (if word.ends_with('/') { EntryType::Directory } else { EntryType::Regular }, word, "", "")
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        // As they are: the builder refuses what a hostile archive may have.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, content.as_bytes()).expect("it can be written");
    }
    archive.into_inner().expect("it can be finished")
}

fn put(blobs: &Blobs, text: &str) -> Descriptor {
    let content = layer(text);
    let digest = blobs.put("a layer", &content).expect("it can be written");
    let (media_type, size) = (String::new(), content.len() as u64);
    Descriptor { media_type, digest, size, platform: None, annotations: Default::default() }
}

/// Images of layers, the lowest first, separated by `|`: what `entry` would run, and all programs there are.
fn check(entry: Option<&str>, images: &[&str], expected: Expect) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let blobs = Blobs::open(dir.path()).expect("it opens");
    let mut told = String::new();
    for image in images {
        let layers: Vec<Descriptor> = image.split('|').map(|text| put(&blobs, text)).collect();
        let runs = match extract(&blobs, "app", &layers, entry) {
            Ok(digest) => String::from_utf8(blobs.read(&digest, 100).expect("it is there")).expect("text"),
            Err(error) => error.to_string().replace("\"app\" is not a WebAssembly image: ", ""),
        };
        let (paths, files) = list(&blobs, "app", &layers).expect("it can be read");
        told.push_str(&format!("{image}\n  {runs}; {files} of {}\n", paths.join(" ")));
    }
    expected.assert_eq(&told);
}

#[test]
fn a_link_in_the_place_of_a_file_is_followed() {
    check(
        Some("/app.wasm"),
        &[
            "app.wasm=v1 | v2.wasm=v2 app.wasm->v2.wasm",
            "app.wasm=v1 | v2.wasm=v2 app.wasm=>v2.wasm",
            "app.wasm=v1 | app.wasm->../../opt/v2.wasm opt/v2.wasm=v2",
            "app.wasm=v1 | v2=v2 app.wasm->v2",
            "app.wasm=v1 v2=v2 | a->v2 b=>a app.wasm->/b",
            "v2=v2 app.wasm=>v2 v2=v3",
            "bin->usr/bin | bin/tool.wasm=tool app.wasm->/bin/tool.wasm",
            "app.wasm=v1 | app.wasm->nowhere",
            "app.wasm=v1 | app.wasm=>nowhere",
            "app.wasm=v1 | app.wasm->app.wasm",
            "app.wasm=v1 | a->b b->a app.wasm->a/x",
        ],
        expect![[r#"
            app.wasm=v1 | v2.wasm=v2 app.wasm->v2.wasm
              v2; 1 of app.wasm v2.wasm
            app.wasm=v1 | v2.wasm=v2 app.wasm=>v2.wasm
              v2; 1 of app.wasm v2.wasm
            app.wasm=v1 | app.wasm->../../opt/v2.wasm opt/v2.wasm=v2
              v2; 1 of app.wasm opt/v2.wasm
            app.wasm=v1 | v2=v2 app.wasm->v2
              v2; 1 of app.wasm
            app.wasm=v1 v2=v2 | a->v2 b=>a app.wasm->/b
              v2; 1 of app.wasm
            v2=v2 app.wasm=>v2 v2=v3
              v2; 1 of app.wasm
            bin->usr/bin | bin/tool.wasm=tool app.wasm->/bin/tool.wasm
              tool; 1 of app.wasm usr/bin/tool.wasm
            app.wasm=v1 | app.wasm->nowhere
              no layer has its entrypoint "/app.wasm"; 0 of 
            app.wasm=v1 | app.wasm=>nowhere
              no layer has its entrypoint "/app.wasm"; 0 of 
            app.wasm=v1 | app.wasm->app.wasm
              no layer has its entrypoint "/app.wasm"; 0 of 
            app.wasm=v1 | a->b b->a app.wasm->a/x
              no layer has its entrypoint "/app.wasm"; 0 of 
        "#]],
    );
}

#[test]
fn what_an_upper_layer_has_in_the_place_hides_what_was_there() {
    check(
        Some("app/main.wasm"),
        &[
            "app/main.wasm=v1 | .wh.app",
            "app/main.wasm=v1 | app/.wh.main.wasm",
            "app/main.wasm=v1 | app/.wh..wh..opq",
            "app/main.wasm=v1 | app/.wh..wh..opq app/main.wasm=v2",
            "app/main.wasm=v1 | app/main.wasm=v2 app/.wh..wh..opq .wh.app app/.wh.main.wasm",
            "app/main.wasm=v1 | app/main.wasm/",
            "app/main.wasm=v1 | app",
            "app/main.wasm=v1 | app->elsewhere elsewhere/main.wasm=v2",
            "app->elsewhere elsewhere/main.wasm=v1 | app/ app/main.wasm=v2",
            "app->elsewhere elsewhere/main.wasm=v1 | app/.wh.main.wasm",
            "app/main.wasm=v1 | app/",
            "app/main.wasm=v1 | application .wh.ap",
        ],
        expect![[r#"
            app/main.wasm=v1 | .wh.app
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app/.wh.main.wasm
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app/.wh..wh..opq
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app/.wh..wh..opq app/main.wasm=v2
              v2; 1 of app/main.wasm
            app/main.wasm=v1 | app/main.wasm=v2 app/.wh..wh..opq .wh.app app/.wh.main.wasm
              v2; 1 of app/main.wasm
            app/main.wasm=v1 | app/main.wasm/
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app->elsewhere elsewhere/main.wasm=v2
              v2; 1 of elsewhere/main.wasm
            app->elsewhere elsewhere/main.wasm=v1 | app/ app/main.wasm=v2
              v2; 2 of app/main.wasm elsewhere/main.wasm
            app->elsewhere elsewhere/main.wasm=v1 | app/.wh.main.wasm
              no layer has its entrypoint "app/main.wasm"; 0 of 
            app/main.wasm=v1 | app/
              v1; 1 of app/main.wasm
            app/main.wasm=v1 | application .wh.ap
              v1; 1 of app/main.wasm
        "#]],
    );
}

#[test]
fn of_a_path_that_comes_twice_the_later_counts() {
    check(
        None,
        &[
            "a.wasm=v1 a.wasm=v2",
            "a.wasm=v1 ./a.wasm=v2 //a.wasm=v3",
            "a.wasm=v1 | .wh.a.wasm b.wasm=v2",
            "a.wasm=v1 | b.wasm=v2 .wh.a.wasm",
            "a.wasm=v1 b.wasm->a.wasm c.wasm=>a.wasm",
            "a.wasm=v1 b.wasm=v1",
            "a.wasm->b",
        ],
        expect![[r#"
            a.wasm=v1 a.wasm=v2
              v2; 1 of a.wasm
            a.wasm=v1 ./a.wasm=v2 //a.wasm=v3
              v3; 1 of a.wasm
            a.wasm=v1 | .wh.a.wasm b.wasm=v2
              v2; 1 of b.wasm
            a.wasm=v1 | b.wasm=v2 .wh.a.wasm
              v2; 1 of b.wasm
            a.wasm=v1 b.wasm->a.wasm c.wasm=>a.wasm
              v1; 1 of a.wasm b.wasm c.wasm
            a.wasm=v1 b.wasm=v1
              it has several .wasm files (a.wasm, b.wasm) and no entrypoint that names one; 2 of a.wasm b.wasm
            a.wasm->b
              no layer has a .wasm file; 0 of 
        "#]],
    );
}

#[test]
fn a_hostile_layer_reaches_nothing_but_itself() {
    check(
        None,
        &[
            "../a.wasm=v1 b/../../c.wasm=v1 ..=v1",
            "a.wasm->/../../etc/passwd",
            "d->../../.. d/a.wasm=v1",
            "a.wasm=v1 | .wh. .wh.. .wh... d/.wh..",
        ],
        expect![[r#"
            ../a.wasm=v1 b/../../c.wasm=v1 ..=v1
              no layer has a .wasm file; 0 of 
            a.wasm->/../../etc/passwd
              no layer has a .wasm file; 0 of 
            d->../../.. d/a.wasm=v1
              v1; 1 of a.wasm
            a.wasm=v1 | .wh. .wh.. .wh... d/.wh..
              v1; 1 of a.wasm
        "#]],
    );
}

#[test]
fn a_layer_that_takes_hours_to_look_through_is_refused() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let blobs = Blobs::open(dir.path()).expect("it opens");
    let files: Vec<String> = (0..2000).map(|number| format!("{number}.wasm")).collect();
    // Each looks at all files of its layer.
    let hides_much = files.join(" ") + &" .wh..wh..opq".repeat(10_000);
    // Each name leads through a long circle.
    let long = "d/../".repeat(18);
    let circle: String = (0..16).map(|number| format!("l{number}->{long}l{} ", number + 1)).collect();
    let links_far = circle + "l16/ " + &"l0/a.wasm ".repeat(60_000);
    for layer in [hides_much, links_far] {
        let error = list(&blobs, "app", &[put(&blobs, &layer)]).expect_err("too much");
        let text = error.to_string();
        assert!(text.contains("it has too many links and .wasm files to look through"), "{text}");
    }
}

#[test]
fn all_layers_of_an_image_together_are_of_bounded_size() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let blobs = Blobs::open(dir.path()).expect("it opens");
    let mut header = Header::new_gnu();
    header.set_size(UNPACKED_BYTES_MAX / 4);
    header.set_cksum();
    let digest = blobs.put("a layer", header.as_bytes()).expect("it can be written");
    let file = File::options().write(true).open(blobs.path(&digest)).expect("it is there");
    file.set_len(UNPACKED_BYTES_MAX / 4 + 512).expect("it has holes");
    let (media_type, size) = (String::new(), UNPACKED_BYTES_MAX / 4 + 512);
    let layer = Descriptor { media_type, digest, size, platform: None, annotations: Default::default() };
    let error = list(&blobs, "app", &vec![layer; 4]).expect_err("too much");
    assert!(matches!(error, ImageError::TooLarge { limit_bytes: UNPACKED_BYTES_MAX, .. }), "{error}");
}
