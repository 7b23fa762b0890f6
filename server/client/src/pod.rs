//! The pod as readers hold it: k8s-openapi's, but that pods of one template share their spec.
//!
//! A typed spec is several times the size of everything else of a pod, and the pods that one ReplicaSet has on a node have
//! equal ones. So every distinct spec of a process is held once, however many pods, revisions of pods and caches have it.
//! Fields that k8s-openapi does not know are not in here: this type is for reading and creating, and a stored pod is
//! changed by patches. Who changes a spec at hand takes `Arc::make_mut`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use k8s_openapi::api::core::v1::{self as core, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope, Resource};
use parking_lot::Mutex;
use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::kinds::Wire;

/// A pod whose spec may be shared with others that are specified equally.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: Option<Arc<PodSpec>>,
    pub status: Option<PodStatus>,
}

impl Resource for Pod {
    const API_VERSION: &'static str = core::Pod::API_VERSION;
    const GROUP: &'static str = core::Pod::GROUP;
    const KIND: &'static str = core::Pod::KIND;
    const VERSION: &'static str = core::Pod::VERSION;
    const URL_PATH_SEGMENT: &'static str = core::Pod::URL_PATH_SEGMENT;
    type Scope = NamespaceResourceScope;
}

impl Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Self {
        Self { metadata: pod.metadata, spec: pod.spec.map(Arc::new), status: pod.status }
    }
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = 3 + usize::from(self.spec.is_some()) + usize::from(self.status.is_some());
        let mut object = serializer.serialize_struct(Self::KIND, fields)?;
        object.serialize_field("apiVersion", Self::API_VERSION)?;
        object.serialize_field("kind", Self::KIND)?;
        object.serialize_field("metadata", &self.metadata)?;
        if let Some(spec) = &self.spec {
            object.serialize_field("spec", &**spec)?;
        }
        if let Some(status) = &self.status {
            object.serialize_field("status", status)?;
        }
        object.end()
    }
}

/// From whatever form, with a spec of its own. Only [`Wire::decode`] shares it, for which it takes JSON text.
impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        core::Pod::deserialize(deserializer).map(Self::from)
    }
}

impl Wire for Pod {
    fn decode(json: &str) -> serde_json::Result<Self> {
        let text: Text<'_> = serde_json::from_str(json)?;
        let spec = text.spec.map(|spec| SPECS.decode(spec.get())).transpose()?;
        Ok(Self { metadata: text.metadata.unwrap_or_default(), spec, status: text.status })
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// A pod whose spec was not read yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "Pod")]
struct Text<'a> {
    #[serde(default, rename = "apiVersion", deserialize_with = "api_version")]
    _api_version: (),
    #[serde(default, rename = "kind", deserialize_with = "kind")]
    _kind: (),
    metadata: Option<ObjectMeta>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
    status: Option<PodStatus>,
}

fn api_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    only(Pod::API_VERSION, deserializer)
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    only(Pod::KIND, deserializer)
}

fn only<'de, D: Deserializer<'de>>(wanted: &str, deserializer: D) -> Result<(), D::Error> {
    let found = String::deserialize(deserializer)?;
    if found == wanted {
        return Ok(());
    }
    Err(D::Error::invalid_value(serde::de::Unexpected::Str(&found), &wanted))
}

static SPECS: LazyLock<Specs> = LazyLock::new(Specs::default);

/// Specs that nobody holds any more are looked for when this much was added, or as much as is held.
const SLACK_BYTES: usize = 128 << 10;

/// The specs of this process, by the text they were read from. Keeps none of them alive.
#[derive(Default)]
struct Specs(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The whole text is the key: of equal hashes one pod would run what another's spec says.
    by_text: HashMap<Box<str>, Weak<PodSpec>>,
    /// What the entries take, be their specs held or not.
    bytes: usize,
    sweep_at_bytes: usize,
}

impl Specs {
    /// The spec as somebody has it already, or read from its text.
    fn decode(&self, text: &str) -> serde_json::Result<Arc<PodSpec>> {
        if let Some(held) = self.0.lock().find(text) {
            return Ok(held);
        }
        let spec: PodSpec = serde_json::from_str(text)?;
        // Decoding leaves lists with room for several elements more, which are kilobytes. A copy has no such room.
        let spec = Arc::new(spec.clone());
        Ok(self.0.lock().keep(text, spec))
    }
}

impl Known {
    fn find(&self, text: &str) -> Option<Arc<PodSpec>> {
        self.by_text.get(text)?.upgrade()
    }

    /// Somebody else may have read the same text meanwhile: then theirs is given.
    fn keep(&mut self, text: &str, spec: Arc<PodSpec>) -> Arc<PodSpec> {
        if let Some(held) = self.find(text) {
            return held;
        }
        if self.by_text.insert(text.into(), Arc::downgrade(&spec)).is_none() {
            self.bytes += weight(text);
        }
        if self.bytes >= self.sweep_at_bytes.max(SLACK_BYTES) {
            self.sweep();
        }
        spec
    }

    fn sweep(&mut self) {
        self.by_text.retain(|_, spec| spec.strong_count() > 0);
        self.by_text.shrink_to_fit();
        self.bytes = self.by_text.keys().map(|text| weight(text)).sum();
        self.sweep_at_bytes = self.bytes + self.bytes.max(SLACK_BYTES);
    }
}

/// What an entry takes whose spec nobody holds: a weak reference holds on to the memory of what it referred to.
fn weight(text: &str) -> usize {
    text.len() + size_of::<PodSpec>()
}

#[cfg(test)]
mod tests;
