//! What every step of a request knows: which verb on which resource, by whom, with which options.

use std::sync::Arc;

use coracle_api::decode::FieldValidation;
use coracle_api::meta::{GroupKind, GroupResource};
use coracle_api::schema::ResourceDef;
use coracle_store::Key;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::hooks::UserInfo;
use crate::http::request_info::Verb;

/// One request on a resource. Built once, read by strategies, admission and the registry.
#[derive(Debug)]
pub struct Context {
    /// The verb as admission sees it: a patch that creates is `Create`, a patch that updates stays `Patch`.
    pub verb: Verb,
    /// The version that the objects at hand are in: the stored one.
    pub def: Arc<ResourceDef>,
    /// The version that the client speaks.
    pub served: Arc<ResourceDef>,
    /// "" for the resource itself.
    pub subresource: String,
    /// "" for cluster-scoped resources and for requests across namespaces.
    pub namespace: Arc<str>,
    /// "" on create and on collections.
    pub name: Arc<str>,
    pub user: Arc<UserInfo>,
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    pub field_manager: String,
    pub now: Timestamp,
    warnings: Mutex<Vec<String>>,
}

impl Context {
    pub fn new(
        verb: Verb,
        def: Arc<ResourceDef>,
        served: Arc<ResourceDef>,
        user: Arc<UserInfo>,
        now: Timestamp,
    ) -> Self {
        Self {
            verb,
            def,
            served,
            subresource: String::new(),
            namespace: Arc::from(""),
            name: Arc::from(""),
            user,
            dry_run: false,
            field_validation: FieldValidation::Warn,
            field_manager: String::new(),
            now,
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// The same request where it creates after all.
    pub fn as_create(&self) -> Self {
        Self {
            verb: Verb::Create,
            def: self.def.clone(),
            served: self.served.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            user: self.user.clone(),
            dry_run: self.dry_run,
            field_validation: self.field_validation,
            field_manager: self.field_manager.clone(),
            now: self.now,
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// The same request, of one object of the collection that it names.
    pub fn for_object(&self, key: &Key) -> Self {
        Self { verb: self.verb, namespace: key.namespace.clone(), name: key.name.clone(), ..self.as_create() }
    }

    /// Adds a text for a `Warning: 299` header; each is sent once.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    pub fn group_resource(&self) -> GroupResource {
        self.def.group_resource()
    }

    /// In the words of a 403 or 404 about a subresource: `pods/binding`.
    pub fn group_subresource(&self) -> GroupResource {
        if self.subresource.is_empty() {
            return self.group_resource();
        }
        GroupResource::new(&*self.def.group, format!("{}/{}", self.def.plural, self.subresource))
    }

    pub fn group_kind(&self) -> GroupKind {
        self.def.group_kind()
    }

    /// Whether this is the resource with this group and plural, and which subresource does not matter.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.def.plural == plural && self.def.group == group
    }
}
