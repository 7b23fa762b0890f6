//! Upstream's golden objects have every field of every kind filled in. Decoding each strictly must find nothing
//! unknown, and give the same JSON back, from JSON and from YAML.
//!
//! They are not part of this repository. `CORACLE_GOLDEN` names the directory (staging/src/k8s.io/api/testdata/HEAD
//! of upstream's source).

use std::path::PathBuf;

use coracle_api::decode::{FieldValidation, Format, Target, decode};
use coracle_api::schema::Schema;

#[test]
fn golden_objects_survive() {
    #[expect(clippy::disallowed_methods, reason = "a test may be told where its data is")]
    let given = std::env::var("CORACLE_GOLDEN").ok().map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubernetes-1.36/golden");
    let dir = given.unwrap_or(beside);
    if !dir.is_dir() {
        println!("skipped: no golden objects at {} (set CORACLE_GOLDEN)", dir.display());
        return;
    }
    let mut seen = 0;
    for def in Schema::v1_36().resources() {
        let group = if def.group.is_empty() { "core" } else { &*def.group };
        let stem = dir.join(format!("{group}.{}.{}", def.version, def.kind));
        let with = |extension: &str| PathBuf::from(format!("{}.{extension}", stem.display()));
        // The kinds of apiextensions and the aggregator are not among upstream's golden objects.
        let Ok(json) = std::fs::read(with("json")) else { continue };
        let yaml = std::fs::read(with("yaml")).expect("golden objects come as JSON and as YAML");
        let expected: serde_json::Value = serde_json::from_slice(&json).expect("golden JSON");
        for (bytes, format) in [(&json, Format::Json), (&yaml, Format::Yaml)] {
            let decoded = decode(bytes, format, &Target::of(def), FieldValidation::Strict)
                .unwrap_or_else(|e| panic!("{} as {format:?}: {e}", stem.display()));
            assert_eq!(decoded.object.into_value(), expected, "{} as {format:?}", stem.display());
        }
        seen += 1;
    }
    println!("{seen} golden kinds");
    assert!(seen > 60, "only {seen} golden kinds in {}", dir.display());
}
