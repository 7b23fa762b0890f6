//! All resources that are served, by group, version and plural. Built-in ones come from the schema, others may be added
//! and removed while the server runs; a request looks its resource up once.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::meta::{GroupKind, GroupResource};
use coracle_api::object::Object;
use coracle_api::schema::{ResourceDef, Schema};
use coracle_store::{Draft, Fields, Key, Paths, Prefix};
use parking_lot::RwLock;

use super::codec::Header;
use super::convert::Conversion;
use super::facts::{self, Facts};
use crate::strategy::{self, Strategy};

/// A resource in one served version, with all that the registry needs to know of it.
pub struct Resource {
    /// As it is served.
    pub def: Arc<ResourceDef>,
    /// As it is stored: another version of the same (or, for Events, a sibling) resource, or the same.
    pub stored: Arc<ResourceDef>,
    /// The store's name for it: `pods`, `deployments.apps`.
    pub key: Arc<str>,
    pub facts: Facts,
    pub strategy: Arc<dyn Strategy>,
    pub conversion: Conversion,
    pub header: Header,
    pub served_header: Header,
    field_labels: Paths,
}

impl Resource {
    pub fn new(def: Arc<ResourceDef>, stored: Arc<ResourceDef>, facts: Facts, strategy: Arc<dyn Strategy>) -> Self {
        let conversion = Conversion::between(&def, &stored);
        let header = |def: &ResourceDef| Header::new(&def.group, &def.version, &def.kind);
        Self {
            key: store_key(&stored.group, &stored.plural),
            header: header(&stored),
            served_header: header(&def),
            field_labels: stored.selectable.iter().map(|field| Arc::from(&*field.name)).collect(),
            conversion,
            facts,
            strategy,
            def,
            stored,
        }
    }

    pub fn group_resource(&self) -> GroupResource {
        self.def.group_resource()
    }

    pub fn group_kind(&self) -> GroupKind {
        self.def.group_kind()
    }

    /// Namespaces: what must be cleaned up is listed in spec.finalizers.
    pub fn holds_spec_finalizers(&self) -> bool {
        self.stored.group.is_empty() && self.stored.plural == "namespaces"
    }

    pub fn store_key(&self, namespace: &Arc<str>, name: &str) -> Key {
        Key { resource: self.key.clone(), namespace: namespace.clone(), name: Arc::from(name) }
    }

    /// All objects of a namespace, or of all with "".
    pub fn prefix(&self, namespace: &Arc<str>) -> Prefix {
        Prefix { resource: self.key.clone(), namespace: (!namespace.is_empty()).then(|| namespace.clone()) }
    }

    pub fn draft(&self, object: &Object) -> Draft {
        let (json, revision_at) = self.header.encode(object);
        let fields = if self.field_labels.is_empty() {
            Fields::default()
        } else {
            // Name and namespace, which the schema counts in, are the entry's key.
            let values = self.stored.selectable_values(object);
            let own = values.iter().skip(1 + usize::from(self.stored.namespaced));
            Fields::new(self.field_labels.clone(), own.map(|(_, value)| &**value))
        };
        Draft { uid: object.uid(), labels: object.labels(), fields, json, revision_at }
    }
}

/// `pods`, `deployments.apps`.
pub fn store_key(group: &str, plural: &str) -> Arc<str> {
    if group.is_empty() { Arc::from(plural) } else { Arc::from(format!("{plural}.{group}")) }
}

type Resources = HashMap<Box<str>, Arc<Resource>>;

pub struct Catalog {
    resources: RwLock<Arc<Resources>>,
}

/// Built-in resources whose stored version is not simply the first of their group in the schema's order.
const STORED: [(&str, &str, &str, &str); 2] = [
    // Served group and plural, stored group and version.
    ("events.k8s.io", "events", "", "v1"),
    ("autoscaling", "horizontalpodautoscalers", "autoscaling", "v2"),
];

impl Catalog {
    /// The built-in resources of Kubernetes v1.36.
    pub fn builtin() -> Self {
        let defs = Schema::v1_36().resources();
        let mut resources = Resources::new();
        for def in defs {
            let stored = stored_version(def, defs);
            let facts = facts::of(&def.group, &def.plural);
            let strategy = strategy::of(&stored.group, &stored.plural);
            let resource = Resource::new(def.clone(), stored, facts, strategy);
            resources.insert(path(&def.group, &def.version, &def.plural), Arc::new(resource));
        }
        Self { resources: RwLock::new(Arc::new(resources)) }
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.read().get(&*path(group, version, plural)).cloned()
    }

    /// Any served version of a resource.
    pub fn find(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let all = self.resources.read();
        all.values().find(|resource| *resource.def.group == *group && *resource.def.plural == *plural).cloned()
    }

    pub fn serves_group_version(&self, group: &str, version: &str) -> bool {
        let all = self.resources.read();
        all.values().any(|resource| *resource.def.group == *group && *resource.def.version == *version)
    }

    /// Every served resource, ordered by group, version and plural.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let mut all: Vec<_> = self.resources.read().values().cloned().collect();
        all.sort_by(|a, b| {
            let (a, b) = (&a.def, &b.def);
            (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural))
        });
        all
    }

    /// Serves one more resource, or another definition of one.
    pub fn put(&self, resource: Resource) {
        let mut all = self.resources.write();
        let key = path(&resource.def.group, &resource.def.version, &resource.def.plural);
        Arc::make_mut(&mut all).insert(key, Arc::new(resource));
    }

    pub fn remove(&self, group: &str, version: &str, plural: &str) {
        let mut all = self.resources.write();
        Arc::make_mut(&mut all).remove(&path(group, version, plural));
    }
}

fn path(group: &str, version: &str, plural: &str) -> Box<str> {
    format!("{group}/{version}/{plural}").into_boxed_str()
}

/// Which of the served versions is stored: the most stable one, and of those the newest.
fn stored_version(def: &Arc<ResourceDef>, all: &[Arc<ResourceDef>]) -> Arc<ResourceDef> {
    let exception = STORED.iter().find(|(group, plural, ..)| *group == &*def.group && *plural == &*def.plural);
    let found = match exception {
        Some((_, plural, group, version)) => {
            all.iter().find(|other| *group == &*other.group && *version == &*other.version && *plural == &*other.plural)
        }
        None => all
            .iter()
            .filter(|other| other.group == def.group && other.plural == def.plural)
            .max_by_key(|other| version_rank(&other.version)),
    };
    found.unwrap_or(def).clone()
}

/// GA over beta over alpha, then the number, then the number of the beta.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let major = rest[..digits].parse().unwrap_or(0);
    let stage = &rest[digits..];
    let minor = |prefix: &str| stage[prefix.len()..].parse().unwrap_or(0);
    match stage {
        "" => (2, major, 0),
        _ if stage.starts_with("beta") => (1, major, minor("beta")),
        _ if stage.starts_with("alpha") => (0, major, minor("alpha")),
        _ => (0, 0, 0),
    }
}
