//! What a file system has when the layers of its image lie on each other, as far as programs are concerned: `.wasm` files,
//! links, and what those lead to. All else is only known to hide what lay in its place. No I/O.
//!
//! Layers are added from the lowest on, as containerd unpacks them: a later entry of a path replaces an earlier one, and
//! directories on the way may be links.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// The name of a file that says that nothing of its directory in lower layers is left.
const OPAQUE: &str = ".wh..wh..opq";
/// Before the name of a file or directory of lower layers that is gone.
const WHITEOUT: &str = ".wh.";

/// On the way to one file; more are a circle.
const LINKS_MAX: usize = 16;
/// As long as Linux takes paths.
const PATH_BYTES_MAX: usize = 4096;
/// Of names and what is kept with them. Only who means harm has so many.
const KEPT_BYTES_MAX: usize = 32 << 20;
const NODE_BYTES: usize = 96;
/// Of names on the way to what an image has, and of files that are looked at to hide some of them.
const STEPS_MAX: usize = 16 << 20;

const TOO_MUCH: &str = "it has too many links and .wasm files to look through";

/// Where a file's content is: the number of the layer and, in it, of the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) layer: usize,
    pub(super) entry: usize,
}

/// What an archive has at a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry<'a> {
    Dir,
    File,
    Symlink(&'a str),
    HardLink(&'a str),
    Other,
}

#[derive(Debug, Clone)]
enum What {
    File(Source),
    Symlink(String),
    /// A second name of a file that is not kept.
    HardLink(String),
}

#[derive(Debug)]
struct Node {
    /// That it came with.
    layer: usize,
    what: What,
}

#[derive(Debug, Default)]
pub(super) struct Overlay {
    nodes: BTreeMap<String, Node>,
    kept_bytes: usize,
    steps: Cell<usize>,
    /// Files that are kept though they are not called `.wasm`.
    wanted: BTreeSet<String>,
}

/// What a path leads to.
enum Found {
    File(Source),
    /// To this, which is a file only if it is kept.
    Unknown(String),
    Nothing,
}

impl Overlay {
    pub(super) fn add(&mut self, from: Source, path: &str, entry: Entry<'_>) -> Result<(), String> {
        let path = path.trim_end_matches('/');
        let (dir, base) = path.rsplit_once('/').unwrap_or(("", path));
        // What would leave the file system, or is its root, is no program and hides none.
        if path.len() > PATH_BYTES_MAX || matches!(base, "" | "." | "..") || dir.split('/').any(|part| part == "..") {
            return Ok(());
        }
        let dir = self.resolve(dir);
        if self.steps.get() > STEPS_MAX {
            return Err(TOO_MUCH.to_owned());
        }
        let Some(dir) = dir else { return Ok(()) };
        if base == OPAQUE {
            self.hide_below(&dir, from.layer);
            return Ok(());
        }
        if let Some(gone) = base.strip_prefix(WHITEOUT) {
            if !matches!(gone, "" | "." | "..") {
                self.hide(&joined(&dir, gone), from.layer);
            }
            return Ok(());
        }
        let at = joined(&dir, base);
        let what = match entry {
            Entry::Dir => {
                self.nodes.remove(&at);
                return Ok(());
            }
            Entry::File => self.keeps(&at).then_some(What::File(from)),
            Entry::Symlink(target) => (target.len() <= PATH_BYTES_MAX).then(|| What::Symlink(target.to_owned())),
            Entry::HardLink(target) => self.linked(target),
            Entry::Other => None,
        };
        self.hide(&at, from.layer + 1);
        what.map_or(Ok(()), |what| self.keep(at, Node { layer: from.layer, what }))
    }

    /// Is there anything to be found out by adding all layers again? If so, this is ready for it.
    pub(super) fn wants_more(&mut self) -> bool {
        let wasm = self.nodes.keys().filter(|path| path.ends_with(".wasm"));
        let unknown = wasm.filter_map(|path| match self.find(path) {
            Found::Unknown(path) if !self.keeps(&path) => Some(path),
            Found::Unknown(_) | Found::File(_) | Found::Nothing => None,
        });
        let unknown: Vec<String> = unknown.collect();
        if unknown.is_empty() {
            return false;
        }
        self.wanted.extend(unknown);
        self.nodes.clear();
        self.kept_bytes = 0;
        true
    }

    /// The file at a path, or where its links lead.
    pub(super) fn file(&self, path: &str) -> Option<Source> {
        match self.find(path) {
            Found::File(source) => Some(source),
            Found::Unknown(_) | Found::Nothing => None,
        }
    }

    /// All names that end in `.wasm`, sorted, and the files that have them. One may have several.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&str, Source)> {
        let names = self.nodes.keys().map(String::as_str).filter(|path| path.ends_with(".wasm"));
        names.filter_map(|path| Some((path, self.file(path)?)))
    }

    fn find(&self, path: &str) -> Found {
        let Some(at) = self.resolve(path) else { return Found::Nothing };
        match self.nodes.get(&at).map(|node| &node.what) {
            Some(What::File(source)) => Found::File(*source),
            Some(What::HardLink(target)) => Found::Unknown(target.clone()),
            // Links have been followed.
            Some(What::Symlink(_)) | None => Found::Unknown(at),
        }
    }

    fn keeps(&self, path: &str) -> bool {
        path.ends_with(".wasm") || self.wanted.contains(path)
    }

    fn keep(&mut self, path: String, node: Node) -> Result<(), String> {
        let more = match &node.what {
            What::File(_) => 0,
            What::Symlink(target) | What::HardLink(target) => target.len(),
        };
        self.kept_bytes += NODE_BYTES + path.len() + more;
        if self.kept_bytes > KEPT_BYTES_MAX {
            return Err(TOO_MUCH.to_owned());
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// What a hard link to `target` is: that itself, whatever comes in its place later.
    fn linked(&self, target: &str) -> Option<What> {
        let (dir, base) = target.rsplit_once('/').unwrap_or(("", target));
        let at = joined(&self.resolve(dir)?, base);
        match self.nodes.get(&at) {
            Some(node) => Some(node.what.clone()),
            None if self.keeps(&at) || at.len() > PATH_BYTES_MAX => None,
            None => Some(What::HardLink(at)),
        }
    }

    /// A path without links, and without the ways to write it differently. Nothing, if its links lead nowhere, or if
    /// all links together are too long a way.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut left: Vec<&str> = path.rsplit('/').collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            self.step();
            let above = match part {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => at.len(),
            };
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
            if let Some(Node { what: What::Symlink(target), .. }) = self.nodes.get(&at) {
                links += 1;
                if links > LINKS_MAX || self.steps.get() > STEPS_MAX {
                    return None;
                }
                at.truncate(if target.starts_with('/') { 0 } else { above });
                left.extend(target.rsplit('/'));
            }
        }
        Some(at)
    }

    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// Nothing of the layers below `layer` is left at `path`, nor in it.
    fn hide(&mut self, path: &str, layer: usize) {
        if self.nodes.get(path).is_some_and(|node| node.layer < layer) {
            self.nodes.remove(path);
        }
        self.hide_below(path, layer);
    }

    fn hide_below(&mut self, dir: &str, layer: usize) {
        let inside = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let there = self.nodes.range(inside.clone()..).take_while(|(path, _)| path.starts_with(&inside));
        let there = there.inspect(|_| self.step());
        let gone: Vec<String> = there.filter(|(_, node)| node.layer < layer).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }
}

fn joined(dir: &str, base: &str) -> String {
    if dir.is_empty() { base.to_owned() } else { format!("{dir}/{base}") }
}
