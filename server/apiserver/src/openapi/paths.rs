//! Owns the operations of OpenAPI documents: which paths a resource has and what each method there takes and gives.

use std::sync::Arc;

use coracle_api::meta::GroupVersionKind;
use coracle_api::schema::{ResourceDef, SubresourceDef, Verb, Verbs};
use serde_json::{Map, Value, json};

use super::definitions::{Dialect, gvk, list_type, meta_name};

/// Name, type and text of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = (
    "pretty",
    "string",
    "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
);
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people.",
);
const SELECT: [Parameter; 6] = [
    ("continue", "string", "The continue option should be set when retrieving more results from the server."),
    (
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    (
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    ("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    (
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    ("resourceVersionMatch", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."),
];
const WATCH: [Parameter; 4] = [
    ("allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."),
    (
        "sendInitialEvents",
        "boolean",
        "`sendInitialEvents=true` may be set together with `watch=true`. The stream then begins with the objects there are.",
    ),
    ("timeoutSeconds", "integer", "Timeout for the list/watch call."),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];
const DELETE: [Parameter; 3] = [
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy."),
    (
        "propagationPolicy",
        "string",
        "Whether and how garbage collection will be performed: 'Orphan', 'Background' or 'Foreground'.",
    ),
];
const LOG: [Parameter; 10] = [
    (
        "container",
        "string",
        "The container for which to stream logs. Defaults to only container if there is one container in the pod.",
    ),
    ("follow", "boolean", "Follow the log stream of the pod. Defaults to false."),
    (
        "insecureSkipTLSVerifyBackend",
        "boolean",
        "Whether not to confirm the validity of the serving certificate of the node.",
    ),
    ("limitBytes", "integer", "If set, the number of bytes to read from the server before terminating the log output."),
    ("previous", "boolean", "Return previous terminated container logs. Defaults to false."),
    ("sinceSeconds", "integer", "A relative time in seconds before the current time from which to show logs."),
    ("sinceTime", "string", "An RFC3339 timestamp from which to show logs."),
    ("stream", "string", "Which container log stream to return: \"All\", \"Stdout\" or \"Stderr\"."),
    ("tailLines", "integer", "If set, the number of lines from the end of the logs to show."),
    ("timestamps", "boolean", "If true, add an RFC3339 timestamp at the beginning of every line of log output."),
];

const FORMATS: [&str; 2] = ["application/json", "application/yaml"];
const PATCH_FORMATS: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Whether an operation is on one namespace's objects, on all, or on a cluster-scoped kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespace,
    AllNamespaces,
    Cluster,
}

/// One operation before it is written.
struct Operation<'a> {
    def: &'a ResourceDef,
    scope: Scope,
    /// `list`, `replace` — the first word of its id.
    word: &'static str,
    action: &'static str,
    subresource: &'a str,
    kind: GroupVersionKind,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    /// The type that is answered; none for plain text.
    answer: Option<String>,
    creates: bool,
}

struct Body {
    ty: String,
    required: bool,
    patch: bool,
}

/// Every path of `resources` with its item.
pub(super) fn paths(dialect: Dialect, resources: &[Arc<ResourceDef>]) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    for def in resources {
        let root = match &*def.group {
            "" => format!("/api/{}", def.version),
            group => format!("/apis/{group}/{}", def.version),
        };
        let plural = &def.plural;
        let (scope, collection) = if def.namespaced {
            if def.verbs.contains(Verb::List) {
                let all = vec![("get", list(def, Scope::AllNamespaces))];
                paths.push((format!("{root}/{plural}"), item(dialect, all, &[])));
            }
            (Scope::Namespace, format!("{root}/namespaces/{{namespace}}/{plural}"))
        } else {
            (Scope::Cluster, format!("{root}/{plural}"))
        };
        let namespace: &[&'static str] = if def.namespaced { &["namespace"] } else { &[] };
        let one: &[&'static str] = if def.namespaced { &["name", "namespace"] } else { &["name"] };
        let operations = collection_operations(def, scope);
        if !operations.is_empty() {
            paths.push((collection.clone(), item(dialect, operations, namespace)));
        }
        let operations = object_operations(def, scope);
        if !operations.is_empty() {
            paths.push((format!("{collection}/{{name}}"), item(dialect, operations, one)));
        }
        for subresource in &def.subresources {
            let operations = subresource_operations(def, subresource, scope);
            paths.push((format!("{collection}/{{name}}/{}", subresource.name), item(dialect, operations, one)));
        }
    }
    paths
}

fn type_name(def: &ResourceDef) -> String {
    def.schema().ty(def.ty).name.to_string()
}

fn list(def: &ResourceDef, scope: Scope) -> Operation<'_> {
    let mut parameters = SELECT.to_vec();
    parameters.extend(WATCH);
    Operation {
        word: "list",
        action: "list",
        parameters,
        answer: list_type(def).map(|ty| def.schema().ty(ty).name.to_string()),
        ..plain(def, scope)
    }
}

fn plain(def: &ResourceDef, scope: Scope) -> Operation<'_> {
    Operation {
        def,
        scope,
        word: "read",
        action: "get",
        subresource: "",
        kind: def.gvk(),
        parameters: Vec::new(),
        body: None,
        answer: Some(type_name(def)),
        creates: false,
    }
}

fn collection_operations(def: &ResourceDef, scope: Scope) -> Vec<(&'static str, Operation<'_>)> {
    let mut operations = Vec::new();
    if def.verbs.contains(Verb::List) {
        operations.push(("get", list(def, scope)));
    }
    if def.verbs.contains(Verb::Create) {
        operations.push(("post", create(plain(def, scope))));
    }
    if def.verbs.contains(Verb::DeleteCollection) {
        let mut operation = delete(plain(def, scope));
        operation.parameters.extend(SELECT);
        operation.word = "deleteCollection";
        operation.action = "deletecollection";
        operations.push(("delete", operation));
    }
    operations
}

fn object_operations(def: &ResourceDef, scope: Scope) -> Vec<(&'static str, Operation<'_>)> {
    let mut operations = changes(def.verbs, || plain(def, scope));
    if def.verbs.contains(Verb::Delete) {
        operations.push(("delete", delete(plain(def, scope))));
    }
    operations
}

/// Reading, replacing and patching one object.
fn changes<'a>(verbs: Verbs, plain: impl Fn() -> Operation<'a>) -> Vec<(&'static str, Operation<'a>)> {
    let mut operations = Vec::new();
    if verbs.contains(Verb::Get) {
        operations.push(("get", plain()));
    }
    let body = |ty: Option<String>, patch| ty.map(|ty| Body { ty, required: true, patch });
    if verbs.contains(Verb::Update) {
        let operation = plain();
        let body = body(operation.answer.clone(), false);
        let parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
        operations
            .push(("put", Operation { word: "replace", action: "put", parameters, body, creates: true, ..operation }));
    }
    if verbs.contains(Verb::Patch) {
        let body = body(Some(meta_name("Patch")), true);
        let parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
        operations
            .push(("patch", Operation { word: "patch", action: "patch", parameters, body, creates: true, ..plain() }));
    }
    operations
}

fn create(operation: Operation<'_>) -> Operation<'_> {
    let body = operation.answer.clone().map(|ty| Body { ty, required: true, patch: false });
    let parameters = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
    Operation { word: "create", action: "post", parameters, body, creates: true, ..operation }
}

fn delete(operation: Operation<'_>) -> Operation<'_> {
    let mut parameters = vec![DRY_RUN];
    parameters.extend(DELETE);
    let body = Some(Body { ty: meta_name("DeleteOptions"), required: false, patch: false });
    Operation { word: "delete", action: "delete", parameters, body, answer: Some(meta_name("Status")), ..operation }
}

fn subresource_operations<'a>(
    def: &'a ResourceDef,
    subresource: &'a SubresourceDef,
    scope: Scope,
) -> Vec<(&'static str, Operation<'a>)> {
    let plain = || Operation {
        subresource: &subresource.name,
        kind: subresource.gvk(),
        answer: subresource.ty.map(|ty| def.schema().ty(ty).name.to_string()),
        ..plain(def, scope)
    };
    // What reaches a pod or node answers with whatever that sends.
    let connects = subresource.ty.is_none() && subresource.name != "log";
    let mut operations = if connects { Vec::new() } else { changes(subresource.verbs, plain) };
    if subresource.name == "log" {
        for (_, operation) in &mut operations {
            operation.parameters.extend(LOG);
        }
    }
    if connects {
        for (verb, method) in [(Verb::Get, "get"), (Verb::Create, "post")] {
            if subresource.verbs.contains(verb) {
                operations.push((method, Operation { word: "connect", action: "connect", ..plain() }));
            }
        }
    } else if subresource.verbs.contains(Verb::Create) {
        operations.push(("post", create(plain())));
    }
    operations
}

fn item(dialect: Dialect, operations: Vec<(&'static str, Operation<'_>)>, path: &[&'static str]) -> Value {
    let mut item = Map::new();
    for (method, operation) in operations {
        item.insert(method.to_owned(), write(dialect, method, &operation));
    }
    let mut parameters: Vec<Value> = path
        .iter()
        .map(|name| {
            let (name, text) = match *name {
                "namespace" => ("namespace", "object name and auth scope, such as for teams and projects"),
                other => (other, "name of the object"),
            };
            parameter(dialect, (name, "string", text), "path")
        })
        .collect();
    parameters.push(parameter(dialect, PRETTY, "query"));
    item.insert("parameters".to_owned(), Value::Array(parameters));
    Value::Object(item)
}

fn parameter(dialect: Dialect, (name, ty, text): Parameter, place: &str) -> Value {
    let mut parameter = json!({ "name": name, "in": place, "description": text });
    let Some(fields) = parameter.as_object_mut() else { return parameter };
    if place == "path" {
        fields.insert("required".to_owned(), Value::Bool(true));
    }
    match dialect {
        Dialect::V2 => {
            fields.insert("type".to_owned(), Value::from(ty));
            fields.insert("uniqueItems".to_owned(), Value::Bool(true));
        }
        Dialect::V3 => {
            fields.insert("schema".to_owned(), json!({ "type": ty, "uniqueItems": true }));
        }
    }
    parameter
}

fn write(dialect: Dialect, method: &str, operation: &Operation<'_>) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|one| parameter(dialect, *one, "query")).collect();
    let answer =
        operation.answer.as_deref().map(|ty| dialect.reference(ty)).unwrap_or_else(|| json!({ "type": "string" }));
    let mut value = json!({
        "description": description(operation),
        "operationId": operation_id(operation, method),
        "tags": [tag(operation.def)],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": gvk(&operation.kind),
    });
    let Some(fields) = value.as_object_mut() else { return value };
    let mut put = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    let formats: &[&str] = match (&operation.body, &operation.answer) {
        (Some(Body { patch: true, .. }), _) => &PATCH_FORMATS,
        (Some(_) | None, Some(_)) => &FORMATS,
        (Some(_) | None, None) => &["*/*"],
    };
    let answers: &[&str] = if operation.answer.is_some() { &FORMATS } else { &["*/*"] };
    match dialect {
        Dialect::V2 => {
            if let Some(body) = &operation.body {
                let schema = dialect.reference(&body.ty);
                parameters.push(json!({ "name": "body", "in": "body", "required": body.required, "schema": schema }));
            }
            let consumes = if operation.body.as_ref().is_some_and(|body| body.patch) { formats } else { &["*/*"] };
            put("consumes", Value::from(consumes));
            put("produces", Value::from(answers));
            put("schemes", json!(["https"]));
        }
        Dialect::V3 => {
            if let Some(body) = &operation.body {
                let content = content(formats, &dialect.reference(&body.ty));
                put("requestBody", json!({ "content": content, "required": body.required }));
            }
        }
    }
    if !parameters.is_empty() {
        put("parameters", Value::Array(parameters));
    }
    let mut responses = Map::new();
    let codes: &[(&str, &str)] = match (operation.creates, operation.action) {
        (true, "post") => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        (true, _) => &[("200", "OK"), ("201", "Created")],
        (false, "delete") => &[("200", "OK"), ("202", "Accepted")],
        (false, _) => &[("200", "OK")],
    };
    for (code, text) in codes {
        let response = match dialect {
            Dialect::V2 => json!({ "description": text, "schema": answer }),
            Dialect::V3 => json!({ "description": text, "content": content(answers, &answer) }),
        };
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    put("responses", Value::Object(responses));
    value
}

fn content(formats: &[&str], schema: &Value) -> Value {
    formats.iter().map(|format| ((*format).to_owned(), json!({ "schema": schema }))).collect()
}

fn description(operation: &Operation<'_>) -> String {
    let kind = &operation.def.kind;
    let of = match operation.subresource {
        "" => String::new(),
        subresource => format!("{subresource} of "),
    };
    match operation.action {
        "list" => format!("list or watch objects of kind {kind}"),
        "get" => format!("read {of}the specified {kind}"),
        "put" => format!("replace {of}the specified {kind}"),
        "patch" => format!("partially update {of}the specified {kind}"),
        "post" => format!("create {of}a {kind}"),
        "delete" => format!("delete a {kind}"),
        "deletecollection" => format!("delete collection of {kind}"),
        other => format!("{other} requests to {of}{kind}"),
    }
}

/// `core`, `rbacAuthorization`: the group without upstream's domain, in camel case.
fn short_group(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut words = group.split(['.', '-']);
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        name += &capital(word);
    }
    name
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

fn tag(def: &ResourceDef) -> String {
    format!("{}_{}", short_group(&def.group), def.version)
}

fn operation_id(operation: &Operation<'_>, method: &str) -> String {
    let def = operation.def;
    let method = if operation.action == "connect" { capital(method) } else { String::new() };
    let word = match operation.word {
        "deleteCollection" => "delete",
        word => word,
    };
    let collection = if operation.word == "deleteCollection" { "Collection" } else { "" };
    let (before, after) = match operation.scope {
        Scope::Namespace => ("Namespaced", ""),
        Scope::AllNamespaces => ("", "ForAllNamespaces"),
        Scope::Cluster => ("", ""),
    };
    let group = capital(&short_group(&def.group));
    format!(
        "{word}{method}{group}{}{collection}{before}{}{}{after}",
        capital(&def.version),
        def.kind,
        capital(operation.subresource)
    )
}
