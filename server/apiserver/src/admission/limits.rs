//! LimitRanges: default requests and limits for containers, and bounds for containers, pods and claims.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::object::Object;
use coracle_api::quantity::Quantity;
use coracle_api::status::Status;
use coracle_store::Prefix;
use k8s_openapi::api::core::v1::{LimitRangeItem, LimitRangeSpec};

use super::{Plugin, creates_pod, edit_each, elements, forbidden};
use crate::http::request_info::Verb;
use crate::registry::context::Context;
use crate::registry::{Registry, codec};

pub(super) struct LimitRanger;

/// Tells what was set that the pod's author had not.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

impl Plugin for LimitRanger {
    fn mutate(
        &self,
        look: &Registry,
        context: &Context,
        pod: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        if !creates_pod(context) {
            return Ok(());
        }
        let items = items(look, context)?;
        let mut set = Vec::new();
        for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
            edit_each(pod, &["spec", list], |container| {
                for (part, word_of_part) in [("requests", "request"), ("limits", "limit")] {
                    let names = set_defaults(container, part, &items);
                    if !names.is_empty() {
                        set.push(format!(
                            "{} {word_of_part} for {word} {}",
                            names.join(", "),
                            container.field(&["name"]).unwrap_or_default()
                        ));
                    }
                }
            });
        }
        if !set.is_empty() {
            pod.set_annotation(ANNOTATION, &format!("LimitRanger plugin set: {}", set.join("; ")));
        }
        Ok(())
    }

    fn validate(
        &self,
        look: &Registry,
        context: &Context,
        object: Option<&Object>,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object.filter(|_| context.verb == Verb::Create && context.subresource.is_empty()) else {
            return Ok(());
        };
        let is_claim = context.is("", "persistentvolumeclaims");
        if !context.is("", "pods") && !is_claim {
            return Ok(());
        }
        let mut problems = Vec::new();
        for item in items(look, context)? {
            match item.type_.as_str() {
                "Container" if !is_claim => {
                    for container in elements(object, &["spec", "containers"]) {
                        check(&item, &requests(&container), &limits(&container), &mut problems);
                    }
                }
                "Pod" if !is_claim => {
                    let containers = elements(object, &["spec", "containers"]);
                    let total = |of: fn(&Object) -> Amounts| {
                        containers.iter().map(of).fold(Amounts::new(), |mut sum, one| {
                            one.into_iter().for_each(|(name, amount)| *sum.entry(name).or_default() += amount);
                            sum
                        })
                    };
                    check(&item, &total(requests), &total(limits), &mut problems);
                }
                "PersistentVolumeClaim" if is_claim => {
                    let requests = amounts(object, &["spec", "resources", "requests"]);
                    check(&item, &requests, &Amounts::new(), &mut problems);
                }
                _ => {}
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(context, object, one)),
            many => Err(forbidden(context, object, format!("[{}]", many.join(", ")))),
        }
    }
}

fn items(look: &Registry, context: &Context) -> Result<Vec<LimitRangeItem>, Status> {
    let snapshot = look.store.snapshot();
    let mut items = Vec::new();
    for entry in snapshot.range(&Prefix::namespaced("limitranges", context.namespace.clone()), None) {
        let spec = codec::object(entry)?.typed_at::<LimitRangeSpec>(&["spec"]).map_err(Status::internal)?;
        items.extend(spec.into_iter().flat_map(|spec| spec.limits));
    }
    Ok(items)
}

fn amounts(object: &Object, path: &[&str]) -> Amounts {
    let pairs = object.string_map(path).into_iter();
    pairs.filter_map(|(name, text)| Some((name, text.parse().ok()?))).collect()
}

fn requests(container: &Object) -> Amounts {
    amounts(container, &["resources", "requests"])
}

fn limits(container: &Object) -> Amounts {
    amounts(container, &["resources", "limits"])
}

/// Sets what the container does not say of its requests or limits (`part`), and tells which resources those are.
fn set_defaults(container: &mut Object, part: &str, items: &[LimitRangeItem]) -> Vec<String> {
    let mut set = BTreeSet::new();
    for item in items.iter().filter(|item| item.type_ == "Container") {
        let amounts = if part == "requests" { &item.default_request } else { &item.default };
        for (name, amount) in amounts.iter().flatten() {
            let path = ["resources", part, name.as_str()];
            if container.path(&path).is_none() {
                container.set(&path, amount.0.as_str());
                set.insert(name.clone());
            }
        }
    }
    set.into_iter().collect()
}

/// A request or limit under the minimum, over the maximum, or a ratio between them that is too large.
fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let kind = &item.type_;
    let parse = |amount: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| amount.0.parse::<Quantity>().ok();
    for (name, bound) in item.min.iter().flatten() {
        let Some(min) = parse(bound) else { continue };
        match requests.get(name) {
            None => problems.push(format!("minimum {name} usage per {kind} is {min}.  No request is specified")),
            Some(request) if *request < min => {
                problems.push(format!("minimum {name} usage per {kind} is {min}, but request is {request}"));
            }
            Some(_) => {
                if let Some(limit) = limits.get(name).filter(|limit| **limit < min) {
                    problems.push(format!("minimum {name} usage per {kind} is {min}, but limit is {limit}"));
                }
            }
        }
    }
    for (name, bound) in item.max.iter().flatten() {
        let Some(max) = parse(bound) else { continue };
        let subject = if kind == "PersistentVolumeClaim" { requests.get(name) } else { limits.get(name) };
        let word = if kind == "PersistentVolumeClaim" { "request" } else { "limit" };
        match subject {
            None => problems.push(format!("maximum {name} usage per {kind} is {max}.  No {word} is specified")),
            Some(amount) if *amount > max => {
                problems.push(format!("maximum {name} usage per {kind} is {max}, but {word} is {amount}"));
            }
            Some(_) => {
                if let Some(request) = requests.get(name).filter(|request| **request > max) {
                    problems.push(format!("maximum {name} usage per {kind} is {max}, but request is {request}"));
                }
            }
        }
    }
    for (name, bound) in item.max_limit_request_ratio.iter().flatten() {
        let Some(ratio) = parse(bound) else { continue };
        let (Some(request), Some(limit)) = (requests.get(name), limits.get(name)) else {
            problems.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but no request is specified or request is 0"
            ));
            continue;
        };
        // limit / request > ratio, without division.
        let exact = request.nanos().saturating_mul(i128::from(ratio.milli()));
        if limit.nanos().saturating_mul(1000) > exact {
            let shown = limit.nanos() as f64 / request.nanos().max(1) as f64;
            problems.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {shown:.6}"
            ));
        }
    }
}
