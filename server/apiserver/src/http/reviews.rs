//! Reviews: objects that are answered and never stored. Who am I, may I, may they, is this token good.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use coracle_api::status::Status;
use serde_json::{Map, Value, json};

use crate::hooks::{Attributes, Decision, Hooks, UserInfo};
use crate::registry::context::Context;

/// The review with its status filled; None if the resource is none.
pub(super) fn answer(hooks: &Hooks, context: &Context, review: &mut Object) -> Result<Option<Object>, Status> {
    let status = match (&*context.def.group, &*context.def.plural) {
        ("authentication.k8s.io", "tokenreviews") => token(hooks, review)?,
        ("authentication.k8s.io", "selfsubjectreviews") => json!({"userInfo": user_json(&context.user)}),
        ("authorization.k8s.io", "selfsubjectaccessreviews") => access(hooks, context, review, &context.user)?,
        ("authorization.k8s.io", "subjectaccessreviews") => {
            let user = subject(context, review)?;
            access(hooks, context, review, &user)?
        }
        ("authorization.k8s.io", "localsubjectaccessreviews") => {
            let user = subject(context, review)?;
            check_local(context, review)?;
            access(hooks, context, review, &user)?
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => rules(hooks, context, review)?,
        _ => return Ok(None),
    };
    if context.def.namespaced {
        review.set_namespace(&context.namespace);
    }
    review.set(&["status"], status);
    Ok(Some(std::mem::take(review)))
}

fn user_json(user: &UserInfo) -> Value {
    let mut json = Map::new();
    json.insert("username".to_owned(), user.name.clone().into());
    if !user.uid.is_empty() {
        json.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        json.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into()));
        json.insert("extra".to_owned(), Value::Object(extra.collect()));
    }
    json.into()
}

fn invalid(context: &Context, error: FieldError) -> Status {
    Status::invalid(&context.group_kind(), "", vec![error])
}

fn token(hooks: &Hooks, review: &Object) -> Result<Value, Status> {
    let token = review.field(&["spec", "token"]).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = strings(review.list(&["spec", "audiences"]));
    Ok(match hooks.authenticator.review_token(token, &audiences) {
        Ok(identity) => json!({
            "authenticated": true, "user": user_json(&identity.user), "audiences": identity.audiences,
        }),
        Err(error) => json!({"user": {}, "error": error}),
    })
}

fn strings(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The user that a SubjectAccessReview is about.
fn subject(context: &Context, review: &Object) -> Result<UserInfo, Status> {
    let field = |name| review.field(&["spec", name]).unwrap_or_default().to_owned();
    let extra = review.path(&["spec", "extra"]).and_then(Value::as_object);
    let extra = extra
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), strings(values.as_array().map(Vec::as_slice).unwrap_or_default())));
    let user = UserInfo {
        name: field("user"),
        uid: field("uid"),
        groups: strings(review.list(&["spec", "groups"])),
        extra: extra.collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let path = FieldPath::new("spec");
        let error = FieldError::invalid(&path.child("user"), "", "at least one of user or group must be specified");
        return Err(invalid(context, error));
    }
    Ok(user)
}

fn check_local(context: &Context, review: &Object) -> Result<(), Status> {
    let path = FieldPath::new("spec.resourceAttributes.namespace");
    let namespace = review.field(&["spec", "resourceAttributes", "namespace"]).unwrap_or_default();
    if *namespace == *context.namespace {
        return Ok(());
    }
    let detail = "must match metadata.namespace";
    Err(invalid(context, FieldError::invalid(&path, namespace, detail)))
}

fn access(hooks: &Hooks, context: &Context, review: &Object, user: &UserInfo) -> Result<Value, Status> {
    let resource = review.path(&["spec", "resourceAttributes"]).is_some();
    let plain = review.path(&["spec", "nonResourceAttributes"]).is_some();
    let path = FieldPath::new("spec");
    if resource == plain {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let error = FieldError::invalid(&path.child("resourceAttributes"), Value::Null, detail);
        return Err(invalid(context, error));
    }
    let part = if resource { "resourceAttributes" } else { "nonResourceAttributes" };
    let field = |name| review.field(&["spec", part, name]).unwrap_or_default();
    let asked = Attributes {
        verb: field("verb"),
        namespace: field("namespace"),
        group: field("group"),
        version: field("version"),
        resource: field("resource"),
        subresource: field("subresource"),
        name: field("name"),
        resource_request: resource,
        path: field("path"),
        field_selector: "",
    };
    let (allowed, denied, reason) = match hooks.authorizer.authorize(user, &asked) {
        Decision::Allow(reason) => (true, false, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
        Decision::Deny(reason) => (false, true, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(status)
}

fn rules(hooks: &Hooks, context: &Context, review: &Object) -> Result<Value, Status> {
    let namespace = review.field(&["spec", "namespace"]).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = hooks.authorizer.rules(&context.user, namespace);
    let mut status = json!({
        "resourceRules": rules.resource_rules,
        "nonResourceRules": rules.non_resource_rules,
        "incomplete": rules.incomplete,
    });
    if !rules.evaluation_error.is_empty() {
        status["evaluationError"] = rules.evaluation_error.into();
    }
    Ok(status)
}
