//! Checks what a compiler does not: the arrows between crates, the sizes of files and functions, and that every path
//! a document names exists. Its lists of exceptions may only shrink.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use coracle_tests::checkout;

const FILE_LINES: usize = 800;
const MAIN_LINES: usize = 150;
const FUNCTION_LINES: usize = 70;
const INLINE_TEST_LINES: usize = 150;

/// Who may import whom. A crate that is not named here may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("coracle-api", &[]),
    ("coracle-client", &["coracle-api"]),
    ("coracle-store", &["coracle-api"]),
    ("coracle-apiserver", &["coracle-api", "coracle-client", "coracle-store"]),
    ("coracle-scheduler", &["coracle-api", "coracle-client"]),
    ("coracle-controllers", &["coracle-api", "coracle-client"]),
    ("coracle-cri", &[]),
    ("coracle-network", &["coracle-api", "coracle-client"]),
    ("coracle-agent", &["coracle-api", "coracle-client", "coracle-cri", "coracle-network"]),
    ("coracle-shim-wasm", &["coracle-cri"]),
];

/// The two that see both sides.
const SEE_ALL: &[&str] = &["coracle", "coracle-tests"];

/// Functions longer than a screen: tables and matches that say one thing per line.
const LONG_FUNCTIONS: &[&str] = &[];

fn tracked(extension: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder of the checkout can be read") {
            let path = entry.expect("a folder entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&checkout(), extension, &mut found);
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(checkout()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn crates_import_only_whom_they_may() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in tracked("toml").iter().filter(|p| p.ends_with("Cargo.toml")) {
        let manifest: toml::Value = toml::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let Some(name) = manifest.get("package").and_then(|p| p.get("name")).and_then(|n| n.as_str()) else { continue };
        if relative(path).starts_with("examples/") || relative(path).contains("/guests/") || SEE_ALL.contains(&name) {
            continue;
        }
        seen += 1;
        let Some(allowed) = arrows.get(name) else {
            wrong.push(format!("{}: crate {name} is in no list of arrows", relative(path)));
            continue;
        };
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(|t| t.as_table()) else { continue };
            for other in dependencies.keys().filter(|k| k.starts_with("coracle")) {
                if !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{}: {name} must not import {other}", relative(path)));
                }
            }
        }
    }
    assert!(seen >= ARROWS.len(), "only {seen} of our manifests were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_one_subject() {
    let mut wrong = Vec::new();
    for path in tracked("rs") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = read(&path);
        let lines = text.lines().count();
        // Guests and suites are programs of one file; a binary of ours only hands over.
        let thin = name == "main.rs" && !relative(&path).starts_with("tests/") && !relative(&path).contains("/guest");
        let limit = if thin { MAIN_LINES } else { FILE_LINES };
        if lines > limit {
            wrong.push(format!("{}: {lines} lines, at most {limit}: it has two subjects", relative(&path)));
        }
        if matches!(name.as_str(), "utils.rs" | "util.rs" | "helpers.rs" | "manager.rs" | "common.rs") {
            wrong.push(format!("{}: a file is named after its subject", relative(&path)));
        }
        if let Some(start) = text.lines().position(|l| l.trim_start().starts_with("mod tests {"))
            && lines - start > INLINE_TEST_LINES
        {
            wrong.push(format!("{}: tests of {} lines belong in a sibling tests.rs", relative(&path), lines - start));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut wrong = Vec::new();
    for path in tracked("rs") {
        let text = read(&path);
        for (name, line, length) in functions(&text) {
            let full = format!("{}:{name}", relative(&path));
            if length > FUNCTION_LINES && !LONG_FUNCTIONS.contains(&full.as_str()) {
                wrong.push(format!("{}:{line}: {name} has {length} lines, at most {FUNCTION_LINES}", relative(&path)));
            }
        }
    }
    for full in LONG_FUNCTIONS {
        let (path, name) = full.rsplit_once(':').expect("path:name");
        let long = functions(&read(&checkout().join(path))).iter().any(|(n, _, l)| n == name && *l > FUNCTION_LINES);
        assert!(long, "{full} is no longer long: take it off the list of exceptions");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Name, first line and length of each function, read off the layout that rustfmt gives.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let Some(name) = function_name(body) else { continue };
        if body.ends_with(';') || body.ends_with("{}") {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(end) = lines[at..].iter().position(|l| *l == closing || *l == format!("{closing},")) {
            found.push((name, at + 1, end + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    loop {
        match words.next()? {
            "pub" | "pub(crate)" | "pub(super)" | "async" | "const" | "unsafe" | "extern" | "\"C\"" => {}
            "fn" => break,
            _ => return None,
        }
    }
    let name: String = words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// Where `unsafe` may stand; docs/architecture.md says why. Guests are programs of their own.
const UNSAFE: &[&str] = &["agent/network/", "runtime-shims/", "server/src/memory.rs", "examples/"];

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let mut wrong = Vec::new();
    for path in tracked("rs") {
        let (name, text) = (relative(&path), read(&path));
        let mut lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        let begins = ["{", "fn ", "impl ", "extern "].map(|what| ["unsafe", what].join(" "));
        if !lines.any(|line| begins.iter().any(|begin| line.contains(begin))) {
            continue;
        }
        if !UNSAFE.iter().any(|room| name.starts_with(room)) {
            wrong.push(format!("{name}: unsafe code belongs in another room"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents_name_paths_that_exist() {
    let mut wrong = Vec::new();
    for path in tracked("md") {
        let folder = path.parent().expect("a file lies in a folder");
        for word in read(&path).split(['`', '(', ')', ' ', '\n', '\t', ',']) {
            let word = word.trim_end_matches(['.', ':', ';']).trim_start_matches("./");
            let rooms = ["server/", "agent/", "runtime-shims/", "examples/", "tests/", "docs/", ".ci/"];
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if plain
                && rooms.iter().any(|room| word.starts_with(room))
                && !checkout().join(word).exists()
                && !folder.join(word).exists()
            {
                wrong.push(format!("{}: {word} does not exist", relative(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
