//! Which stored objects a list, a watch or a deletecollection means.

use std::sync::Arc;

use coracle_api::selector::{FieldSelector, LabelSelector};
use coracle_api::status::Status;
use coracle_store::{Entry, Prefix};

use super::catalog::Resource;
use super::convert::Conversion;

#[derive(Debug, Clone)]
pub struct Selection {
    pub prefix: Prefix,
    /// The one name that the field selector leaves.
    pub name: Option<Arc<str>>,
    labels: LabelSelector,
    fields: FieldSelector,
    everything: bool,
    conversion: Conversion,
}

impl Selection {
    /// 400 for a field that the resource does not let itself be selected by.
    pub fn new(
        resource: &Resource,
        namespace: &Arc<str>,
        labels: LabelSelector,
        fields: FieldSelector,
    ) -> Result<Self, Status> {
        if let Some(unknown) = fields.requirements().iter().find(|one| !resource.def.is_selectable(&one.field)) {
            return Err(unknown_field(resource, &unknown.field));
        }
        let mut prefix = resource.prefix(namespace);
        if prefix.namespace.is_none() && resource.def.namespaced {
            prefix.namespace = fields.exact("metadata.namespace").filter(|pinned| !pinned.is_empty()).map(Arc::from);
        }
        let everything = labels.is_everything() && fields.is_everything();
        Ok(Self {
            prefix,
            name: fields.exact("metadata.name").map(Arc::from),
            labels,
            fields,
            everything,
            conversion: resource.conversion,
        })
    }

    /// Whether no selector is given (a namespace is none).
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        self.everything
            || (self.labels.matches(&entry.labels)
                && self.fields.matches_by(|field| match field {
                    "metadata.name" => Some(&*entry.key.name),
                    "metadata.namespace" => Some(&*entry.key.namespace),
                    _ => entry.field(&self.conversion.stored_field(field)),
                }))
    }
}

fn unknown_field(resource: &Resource, field: &str) -> Status {
    if resource.def.selectable.is_empty() {
        let text = format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
        return Status::bad_request(text);
    }
    Status::bad_request(format!("field label not supported: {field}"))
}
