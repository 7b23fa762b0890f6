//! What is stored: keys, drafts (what a caller wants written), entries (what was written) and events (how it changed).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::meta::{ObjectKey, Revision, Uid};

use crate::text;

pub type Labels = BTreeMap<String, String>;

/// The fields a selector may ask for, by path (`spec.nodeName`), as the caller extracted them. Objects of a resource have
/// the same paths, and an object's values lie in one piece of memory: an Event has eleven, and a pod has many Events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub(crate) paths: Paths,
    /// As many texts as there are paths, each with its length before it.
    values: Box<[u8]>,
}

pub type Paths = Arc<[Arc<str>]>;

impl Fields {
    /// A value for each path.
    pub fn new<'a>(paths: Paths, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut bytes = Vec::new();
        let mut count = 0;
        for value in values {
            text::put(value, &mut bytes);
            count += 1;
        }
        assert_eq!(paths.len(), count, "a value for each path");
        Self { paths, values: bytes.into() }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &str)> {
        let mut values = &*self.values;
        self.paths.iter().map(move |path| (path, text::take(&mut values).expect("a value for each path")))
    }

    pub fn get(&self, path: &str) -> Option<&str> {
        self.iter().find(|(known, _)| ***known == *path).map(|(_, value)| value)
    }
}

/// Names one object. `resource` is the plural and group, `pods` or `deployments.apps`; an empty namespace means
/// cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub resource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    pub fn object(resource: impl Into<Arc<str>>, key: &ObjectKey) -> Self {
        Self { resource: resource.into(), namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.resource, self.name),
            false => write!(f, "{} {}/{}", self.resource, self.namespace, self.name),
        }
    }
}

/// Names all objects of a resource, or those of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub resource: Arc<str>,
    pub namespace: Option<Arc<str>>,
}

impl Prefix {
    pub fn resource(resource: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: None }
    }

    pub fn namespaced(resource: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>) -> Self {
        Self { resource: resource.into(), namespace: Some(namespace.into()) }
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.resource == key.resource && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// An object as its writer wants it stored: all but its revision, which only the commit knows.
#[derive(Clone, Debug)]
pub struct Draft {
    pub uid: Uid,
    pub labels: Labels,
    pub fields: Fields,
    /// The object's JSON without `metadata.resourceVersion`.
    pub json: Vec<u8>,
    /// Where in `json` the revision belongs: just inside `"metadata":{`.
    pub revision_at: usize,
}

/// One change to one key. `expect` is the revision the caller decided on: anything else is a conflict.
#[derive(Clone, Debug)]
pub enum Op {
    Create(Draft),
    Update {
        expect: Revision,
        draft: Draft,
    },
    /// `last` is the object as watchers shall see it go; its revision will be that of the deletion.
    Delete {
        expect: Revision,
        last: Draft,
    },
}

/// One version of one object, as stored.
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub uid: Uid,
    /// Shared with the previous version when they are equal, as they mostly are.
    pub labels: Arc<Labels>,
    pub fields: Fields,
    /// The revision that created the object.
    pub created: Revision,
    pub revision: Revision,
    /// The whole object, `metadata.resourceVersion` included.
    pub json: Bytes,
}

impl Entry {
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields.get(path)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One change, as watchers see it. `entry` carries the revision of the change, also for a deletion.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    pub fn new(kind: EventKind, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { kind, entry, previous }
    }

    pub fn revision(&self) -> Revision {
        self.entry.revision
    }
}

/// The draft's JSON with its revision spliced in, in an allocation of exactly its size.
pub(crate) fn splice(draft: &Draft, revision: Revision) -> Bytes {
    const HEAD: &[u8] = b"\"resourceVersion\":\"";
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(revision.0).as_bytes();
    let at = draft.revision_at.min(draft.json.len());
    // A draft whose metadata is otherwise empty must not end in a comma.
    let tail: &[u8] = if draft.json.get(at) == Some(&b'}') { b"\"" } else { b"\"," };
    let mut json = Vec::with_capacity(draft.json.len() + HEAD.len() + digits.len() + tail.len());
    for part in [&draft.json[..at], HEAD, digits, tail, &draft.json[at..]] {
        json.extend_from_slice(part);
    }
    Bytes::from(json)
}
