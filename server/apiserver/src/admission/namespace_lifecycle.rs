//! Objects live in namespaces that exist and are not going away; the system's own namespaces stay.

use coracle_api::meta::GroupResource;
use coracle_api::object::Object;
use coracle_api::status::{Status, StatusCause};

use super::{Plugin, forbidden};
use crate::http::request_info::Verb;
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct NamespaceLifecycle;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

impl Plugin for NamespaceLifecycle {
    fn mutate(
        &self,
        look: &Registry,
        context: &Context,
        object: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        if context.verb != Verb::Create || context.namespace.is_empty() || !context.subresource.is_empty() {
            return Ok(());
        }
        let Some(namespace) = look.object("namespaces", "", &context.namespace)? else {
            return Err(Status::not_found(&GroupResource::new("", "namespaces"), &context.namespace));
        };
        if !namespace.is_being_deleted() {
            return Ok(());
        }
        let name = &*context.namespace;
        let text = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = forbidden(context, object, text);
        status.details.get_or_insert_default().causes.push(StatusCause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        Err(status)
    }

    fn validate(
        &self,
        _look: &Registry,
        context: &Context,
        object: Option<&Object>,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        let deletes = object.is_none() && matches!(context.verb, Verb::Delete | Verb::DeleteCollection);
        if deletes && context.is("", "namespaces") && IMMORTAL.contains(&&*context.name) {
            let message = "this namespace may not be deleted";
            return Err(Status::forbidden(&context.group_resource(), &context.name, message));
        }
        Ok(())
    }
}
