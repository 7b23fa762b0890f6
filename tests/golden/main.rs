//! Conversations with the API server as data. Each `*.script` of this folder is run against the server as it is shipped,
//! on paused time and with numbered ids, and what it answers is compared with the `*.expected` beside it, byte by byte.
//! `UPDATE_EXPECT=1` writes the answers down; what they should be is for the reader to judge, by Kubernetes v1.36.
//!
//! ```text
//!  ### words                                 a heading, copied into the answers
//!  GET /path?query | metadata.name spec      a request; with `|` only these fields of the answer's body are shown,
//!                                            or with `raw` the body as it came
//!  Accept: application/json                  its headers, each beginning with a capital
//!  data: {k: v}                              its body: YAML, sent as JSON unless a Content-Type is given
//!  MERGE, STRATEGIC, JSONPATCH /path         a PATCH of that kind
//!  AS name group…                            who asks from here on; `AS anonymous`, `AS bearer $token`
//!  WAIT 61                                   lets so many seconds pass
//!  KEEP name field                           `$name` stands for this field of the last answer from here on
//!  WATCH name /path                          opens a watch
//!  NEXT name                                 all that has come since
//!  TIMES n                                   the next request n times, with `$n` for 1, 2, …; only the last is shown
//! ```
//!
//! `$rv`, `$uid` and `$continue` stand for those of the last answer. Revisions begin at 1000 and UIDs of objects made by a
//! script at 1, whatever the server itself made at its start, so that nothing has to be masked but signatures.

mod kinds;
mod script;
mod show;
mod world;

use std::path::{Path, PathBuf};

use world::World;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn check_script(name: &str) {
    let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let steps = script::parse(&read(folder().join(format!("{name}.script"))));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let outcome = runtime.block_on(async { World::new().await.run(&steps).await });
    expect_test::expect_file![folder().join(format!("{name}.expected"))].assert_eq(&outcome);
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check_script(stringify!($name));
        })*

        #[test]
        fn every_script_is_run() {
            let mut found: Vec<String> = std::fs::read_dir(folder())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "script"))
                .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            found.sort();
            assert_eq!(found, [$(stringify!($name)),*]);
        }
    };
}

scripts! {
    access
    bodies
    config_maps
    deletion
    discovery
    events
    forms
    lists
    namespaces
    other_kinds
    patches
    pods
    services
    subresources
    tokens
    watches
    workloads
}
