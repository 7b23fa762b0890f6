//! In-process admission: what a write must satisfy or is given because of other objects or because of who asks. The
//! plugins run in upstream's order, first all that change the object, later (after validation) all that judge it. They
//! are synchronous and read a snapshot of the store through the registry.

mod limits;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod rbac;
mod runtime_class;
mod service_account;
#[cfg(test)]
mod tests;
mod tolerations;
mod wasm_config;

use coracle_api::object::Object;
use coracle_api::status::Status;
use serde_json::Value;

use crate::http::request_info::Verb;
use crate::registry::Registry;
use crate::registry::context::Context;

/// One admission plugin. `object` is absent in deletions, `old` in creations.
#[allow(unused_variables)]
trait Plugin: Send + Sync {
    fn mutate(
        &self,
        look: &Registry,
        context: &Context,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        Ok(())
    }

    fn validate(
        &self,
        look: &Registry,
        context: &Context,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in their order.
pub(crate) struct Admission {
    plugins: [&'static dyn Plugin; 10],
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            plugins: [
                &namespace_lifecycle::NamespaceLifecycle,
                &limits::LimitRanger,
                &service_account::ServiceAccount,
                &wasm_config::WasmConfig,
                &node_restriction::NodeRestriction,
                &tolerations::TaintNewNodes,
                &priority::Priority,
                &tolerations::DefaultTolerationSeconds,
                &runtime_class::RuntimeClass,
                &rbac::RbacEscalation,
            ],
        }
    }
}

impl Admission {
    /// Waits for what is certain to come in a moment (the default service account of a new namespace), so that clients
    /// need not try again.
    pub(crate) async fn settle(&self, registry: &Registry, context: &Context, object: &Object) {
        service_account::wait_for_default(registry, context, object).await;
    }

    pub(crate) fn mutate(
        &self,
        registry: &Registry,
        context: &Context,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        self.plugins.iter().try_for_each(|plugin| plugin.mutate(registry, context, object, old))
    }

    pub(crate) fn validate(
        &self,
        registry: &Registry,
        context: &Context,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        self.plugins.iter().try_for_each(|plugin| plugin.validate(registry, context, object, old))
    }
}

/// Whether this write makes a new pod.
fn creates_pod(context: &Context) -> bool {
    context.verb == Verb::Create && context.subresource.is_empty() && context.is("", "pods")
}

/// 403 about the object at hand.
fn forbidden(context: &Context, object: &Object, message: impl std::fmt::Display) -> Status {
    let name = if object.name().is_empty() { &*context.name } else { object.name() };
    Status::forbidden(&context.group_resource(), name, message)
}

/// Changes each element of a list of objects; an absent list stays absent.
fn edit_each(object: &mut Object, path: &[&str], mut edit: impl FnMut(&mut Object)) {
    let Some(Value::Array(list)) = object.path_mut(path) else { return };
    for value in list.iter_mut() {
        if let Ok(mut element) = Object::from_value(value.take()) {
            edit(&mut element);
            *value = element.into_value();
        }
    }
}

/// The elements of a list of objects.
fn elements(object: &Object, path: &[&str]) -> Vec<Object> {
    object.list(path).iter().cloned().filter_map(|value| Object::from_value(value).ok()).collect()
}

/// Appends to a list that may be absent.
fn push(object: &mut Object, path: &[&str], element: Value) {
    match object.path_mut(path) {
        Some(Value::Array(list)) => list.push(element),
        Some(_) | None => object.set(path, vec![element]),
    }
}
