//! Objects as YAML in, what is stored or what is wrong with them out.

mod core;
mod network;
mod policy;
mod workloads;

use std::sync::Arc;

use coracle_api::decode::{FieldValidation, Format, Target, decode};
use coracle_api::object::Object;
use coracle_api::schema::{ResourceDef, Schema};
use expect_test::Expect;

use crate::hooks::UserInfo;
use crate::http::request_info::Verb;
use crate::registry::context::Context;

fn read(yaml: &str) -> (Arc<ResourceDef>, Object) {
    let line = |key: &str| yaml.lines().find_map(|line| line.strip_prefix(key)).expect("apiVersion and kind on lines");
    let (group, version) = coracle_api::meta::split_api_version(line("apiVersion: "));
    let def = Schema::v1_36().resource_of_kind(group, version, line("kind: ")).expect("a served kind").clone();
    let decoded = decode(yaml.as_bytes(), Format::Yaml, &Target::of(&def), FieldValidation::Strict);
    (def, decoded.unwrap_or_else(|error| panic!("{error}")).object)
}

fn context(verb: Verb, def: &Arc<ResourceDef>) -> Context {
    let now = "2026-01-01T00:00:00Z".parse().expect("an instant");
    let user = UserInfo { uid: "u1".to_owned(), ..UserInfo::new("jane", &["devs"]) };
    Context::new(verb, def.clone(), def.clone(), Arc::new(user), now)
}

/// The way of a new object through its strategy.
pub(super) fn created(yaml: &str) -> Result<Object, String> {
    let (def, mut object) = read(yaml);
    let strategy = super::of(&def.group, &def.plural);
    let context = context(Verb::Create, &def);
    strategy.default(&mut object);
    object.set_uid(&"uid".into());
    strategy.prepare_for_create(&context, &mut object);
    let errors = strategy.validate_create(&context, &object);
    if errors.is_empty() {
        return Ok(object);
    }
    Err(errors.iter().map(|error| format!("{error}\n")).collect())
}

/// What is stored (without its header), or what is wrong.
pub(super) fn check_create(yaml: &str, expected: Expect) {
    let out = match created(yaml) {
        Ok(mut object) => {
            for field in ["apiVersion", "kind", "metadata"] {
                object.remove(&[field]);
            }
            serde_norway::to_string(&object).expect("YAML")
        }
        Err(errors) => errors,
    };
    expected.assert_eq(&out);
}

/// An object is created, then changed by a JSON merge patch (in YAML). `subresource` may be "status", or another.
pub(super) fn check_update(yaml: &str, subresource: &str, patch: &str, expected: Expect) {
    check_update_from(yaml, "{}", subresource, patch, expected);
}

/// The same after `before` has happened to the object.
pub(super) fn check_update_from(yaml: &str, before: &str, subresource: &str, patch: &str, expected: Expect) {
    let new = created(yaml).unwrap_or_else(|errors| panic!("the old object is wrong: {errors}"));
    let (def, _) = read(yaml);
    let merged = |object: Object, patch: &str| {
        let patch: serde_json::Value = serde_norway::from_str(patch).expect("a patch");
        let merged = coracle_api::patch::merge(object.into_value(), patch).expect("a patch that applies");
        Object::from_value(merged).expect("an object")
    };
    let old = merged(new, before);
    let mut new = merged(old.clone(), patch);
    let strategy = super::of(&def.group, &def.plural);
    let mut context = context(Verb::Update, &def);
    context.subresource = subresource.to_owned();
    strategy.default(&mut new);
    let errors = match subresource {
        "status" => {
            strategy.prepare_status_update(&context, &mut new, &old);
            strategy.validate_status_update(&context, &new, &old)
        }
        "" => {
            strategy.prepare_for_update(&context, &mut new, &old);
            strategy.validate_update(&context, &new, &old)
        }
        _ => strategy.validate_update(&context, &new, &old),
    };
    let mut out: String = errors.iter().map(|error| format!("{error}\n")).collect();
    if errors.is_empty() {
        let same = if new == old { "unchanged\n" } else { "changed\n" };
        out.push_str(same);
    }
    expected.assert_eq(&out);
}
