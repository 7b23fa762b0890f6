//! Subresources that show the object (or a Scale made of it) and take a changed one back.

use coracle_api::decode::Target;
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use coracle_api::selector::LabelSelector;
use coracle_api::status::Status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value, json};

use crate::registry::catalog::Resource;
use crate::registry::context::Context;
use crate::registry::update::Part;
use crate::strategy::keep_at;

/// How a subresource shows and changes its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The resource itself.
    Whole,
    Status,
    Scale,
    EphemeralContainers,
    Resize,
    /// namespaces/finalize: spec.finalizers only.
    Finalize,
    /// certificatesigningrequests/approval: status.conditions only.
    Approval,
}

/// The view behind a subresource's name; None for actions and streams.
pub fn view_of(resource: &Resource, subresource: &str) -> Option<View> {
    let view = match subresource {
        "" => return Some(View::Whole),
        "status" => View::Status,
        "scale" => View::Scale,
        "ephemeralcontainers" => View::EphemeralContainers,
        "resize" => View::Resize,
        "finalize" => View::Finalize,
        "approval" => View::Approval,
        _ => return None,
    };
    resource.def.subresource(subresource).map(|_| view)
}

impl View {
    pub fn part(self) -> Part {
        match self {
            View::Whole => Part::Main,
            View::Status => Part::Status,
            View::Scale | View::EphemeralContainers | View::Resize | View::Finalize | View::Approval => Part::Given,
        }
    }

    /// What bodies of this view are decoded as.
    pub fn target<'a>(self, resource: &'a Resource) -> Result<Target<'a>, Status> {
        match self {
            View::Scale => resource
                .def
                .subresource("scale")
                .and_then(|sub| Target::subresource(&resource.def, sub))
                .ok_or_else(Status::no_such_path),
            View::Whole | View::Status | View::EphemeralContainers | View::Resize | View::Finalize | View::Approval => {
                Ok(Target::of(&resource.def))
            }
        }
    }

    /// The object (in the served version) as the client sees it here.
    pub fn show(self, served: Object) -> Result<Object, Status> {
        match self {
            View::Scale => scale_of(&served),
            View::Whole | View::Status | View::EphemeralContainers | View::Resize | View::Finalize | View::Approval => {
                Ok(served)
            }
        }
    }

    /// The object (in the served version) with what the client sent put in.
    pub fn put(self, context: &Context, sent: Object, current: &Object) -> Result<Object, Status> {
        let mut object = current.clone();
        // What the client says about identity and revision is judged by the update.
        for field in ["uid", "resourceVersion"] {
            let path = ["metadata", field];
            match sent.path(&path) {
                Some(value) => object.set(&path, value.clone()),
                None => {
                    object.remove(&path);
                }
            }
        }
        match self {
            View::Whole | View::Status => return Ok(sent),
            View::Scale => set_scale(context, &mut object, &sent)?,
            View::EphemeralContainers => set_ephemeral(context, &mut object, &sent, current)?,
            View::Resize => set_resources(context, &mut object, &sent)?,
            View::Finalize => keep_at(&mut object, &sent, &["spec", "finalizers"]),
            View::Approval => keep_at(&mut object, &sent, &["status", "conditions"]),
        }
        Ok(object)
    }
}

fn scale_of(object: &Object) -> Result<Object, Status> {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.path(&["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let selector = selector_text(object)?;
    let mut status = json!({"replicas": object.int(&["status", "replicas"]).unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = Map::new();
    if let Some(replicas) = object.int(&["spec", "replicas"]) {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status,
    });
    Object::from_value(scale).map_err(Status::internal)
}

/// The selector in the syntax of queries. A ReplicationController's is a plain map.
fn selector_text(object: &Object) -> Result<String, Status> {
    let path = ["spec", "selector"];
    let plain = object.path(&path).and_then(Value::as_object).is_some_and(|map| map.values().all(Value::is_string));
    if plain {
        return Ok(LabelSelector::from_map(&object.string_map(&path)).to_string());
    }
    let typed = object.typed_at::<meta::LabelSelector>(&path).map_err(Status::internal)?;
    let selector = LabelSelector::from_object(typed.as_ref()).map_err(Status::internal)?;
    Ok(if typed.is_none() { String::new() } else { selector.to_string() })
}

fn set_scale(context: &Context, object: &mut Object, scale: &Object) -> Result<(), Status> {
    let replicas = scale.int(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let path = FieldPath::new("spec");
        let error = FieldError::invalid(&path.child("replicas"), replicas, "must be greater than or equal to 0");
        let kind = coracle_api::meta::GroupKind::new("autoscaling", "Scale");
        return Err(Status::invalid(&kind, &context.name, vec![error]));
    }
    object.set(&["spec", "replicas"], replicas);
    Ok(())
}

fn names(list: &[Value]) -> Vec<String> {
    let objects = list.iter().cloned().filter_map(|value| Object::from_value(value).ok());
    objects.map(|one| one.field(&["name"]).unwrap_or_default().to_owned()).collect()
}

/// Ephemeral containers can be added; those that are there stay as they are.
fn set_ephemeral(context: &Context, object: &mut Object, sent: &Object, current: &Object) -> Result<(), Status> {
    let path = ["spec", "ephemeralContainers"];
    let (now, before) = (sent.list(&path), current.list(&path));
    let field = FieldPath::new("spec");
    let field = field.child("ephemeralContainers");
    let invalid = |error| Err(Status::invalid(&context.group_kind(), &context.name, vec![error]));
    let now_names = names(now);
    for (at, name) in names(before).into_iter().enumerate() {
        match now_names.iter().position(|other| *other == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                return invalid(FieldError::forbidden(&field, detail));
            }
            Some(place) if now[place] != before[at] => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                return invalid(FieldError::forbidden(&field, detail));
            }
            Some(_) => {}
        }
    }
    let taken: Vec<String> =
        ["containers", "initContainers"].iter().flat_map(|list| names(current.list(&["spec", list]))).collect();
    for (at, name) in now_names.iter().enumerate() {
        let element = field.index(at);
        if taken.contains(name) || now_names[..at].contains(name) {
            return invalid(FieldError::duplicate(&element.child("name"), name));
        }
    }
    object.set(&path, now.to_vec());
    Ok(())
}

/// Only the containers' resources can be changed here.
fn set_resources(context: &Context, object: &mut Object, sent: &Object) -> Result<(), Status> {
    for list in ["initContainers", "containers"] {
        let path = ["spec", list];
        let wanted = sent.list(&path);
        let mut containers = object.list(&path).to_vec();
        if names(wanted) != names(&containers) {
            let field = FieldPath::new("spec");
            let error =
                FieldError::forbidden(&field.child(list), "containers may not be added, removed or renamed on resize");
            return Err(Status::invalid(&context.group_kind(), &context.name, vec![error]));
        }
        for (container, wanted) in containers.iter_mut().zip(wanted) {
            let (Ok(mut own), Ok(wanted)) = (Object::from_value(container.take()), Object::from_value(wanted.clone()))
            else {
                return Err(Status::bad_request("a container must be a JSON object"));
            };
            keep_at(&mut own, &wanted, &["resources"]);
            keep_at(&mut own, &wanted, &["resizePolicy"]);
            *container = own.into_value();
        }
        if !containers.is_empty() {
            object.set(&path, containers);
        }
    }
    Ok(())
}
