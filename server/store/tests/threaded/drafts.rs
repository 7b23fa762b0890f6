//! Drafts for the tests that run the store as a server does, with its thread.

use coracle_api::meta::Uid;
use coracle_store::{Draft, Fields, Key};

pub(crate) fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

pub(crate) fn lease(name: &str) -> Key {
    Key::new("leases.coordination.k8s.io", "default", name)
}

pub(crate) fn draft(key: &Key, value: u64) -> Draft {
    const HEAD: &str = r#"{"metadata":{"#;
    Draft {
        uid: Uid::from("11111111-2222-3333-4444-555555555555"),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        fields: Fields::new(["v".into()].into(), [value.to_string().as_str()]),
        json: format!(r#"{HEAD}"name":"{}"}},"v":{value}}}"#, key.name).into_bytes(),
        revision_at: HEAD.len(),
    }
}
