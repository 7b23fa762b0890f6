//! Requests on resources: reads options and bodies, calls the registry, answers in the form that was asked for.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use coracle_api::decode::{Format, Target, decode};
use coracle_api::object::Object;
use coracle_api::schema::Verb as SchemaVerb;
use coracle_api::status::{Reason, Status};
use http::{HeaderMap, Request};

use super::negotiate::{self, Accepted, Encoding};
use super::request_info::{RequestInfo, Verb};
use super::respond::{self, Response, Style};
use super::tables::{Include, TableWriter};
use super::watch::{self, WatchStyle};
use super::{Server, body};
use crate::hooks::{RawRequest, UserInfo};
use crate::node_proxy::metrics;
use crate::registry::Written;
use crate::registry::catalog::Resource;
use crate::registry::context::Context;
use crate::registry::create::check_new;
use crate::registry::delete::{Deleted, DeletedAnswer};
use crate::registry::list::{ListError, Page, check_not_future};
use crate::registry::options::{Asked, DeleteOptions, ListOptions, WriteOptions};
use crate::registry::patch::{Patch, PatchKind};
use crate::registry::subresource::{View, view_of};
use crate::registry::unacted;

/// Subresources that a node or a backend answers.
pub(super) const STREAMS: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// One request on a resource, on its way.
struct Call<'a> {
    server: &'a Arc<Server>,
    info: &'a RequestInfo,
    resource: Arc<Resource>,
    context: Context,
    style: Style,
    headers: HeaderMap,
}

impl Server {
    pub(super) async fn resource(
        self: &Arc<Self>,
        info: &RequestInfo,
        user: Arc<UserInfo>,
        request: Request<Body>,
    ) -> Result<Response, Status> {
        if info.group == metrics::GROUP {
            // Not stored: the nodes know.
            return Ok(self.hooks.node_proxy.call(RawRequest { info: info.clone(), user, request }).await);
        }
        let catalog = &self.registry.catalog;
        let resource = catalog.get(&info.group, &info.version, &info.resource).ok_or_else(Status::no_such_path)?;
        // Before anything is answered: permission was given for the namespace that the path names.
        check_scope(info, &resource)?;
        let stream = resource.def.subresource(&info.subresource).filter(|sub| STREAMS.contains(&&*sub.name));
        if stream.is_some_and(|sub| schema_verb(info.verb).is_some_and(|verb| sub.verbs.contains(verb))) {
            return Ok(self.hooks.node_proxy.call(RawRequest { info: info.clone(), user, request }).await);
        }
        let (parts, body) = request.into_parts();
        let is_watch = info.verb == Verb::Watch;
        let accepted = match (negotiate::accept(&parts.headers, is_watch), info.verb) {
            (Ok(accepted), _) => accepted,
            // Deletions answer with a Status whatever was asked for.
            (Err(_), Verb::Delete | Verb::DeleteCollection) => Accepted::JSON,
            (Err(status), _) => return Err(status),
        };
        let mut context =
            Context::new(info.verb, resource.stored.clone(), resource.def.clone(), user, self.registry.clock.now());
        if resource.def.namespaced {
            context.namespace = Arc::from(info.namespace.as_str());
        }
        context.name = Arc::from(info.name.as_str());
        context.subresource.clone_from(&info.subresource);
        let style = Style::new(accepted, &parts.headers, &info.query);
        let call = Call { server: self, info, resource, context, style, headers: parts.headers };
        let mut response = call.run(body).await?;
        if info.method == http::Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        Ok(response)
    }
}

/// A cluster-scoped resource has no namespace in its path, and one object of a namespaced one always has. The collection
/// of all namespaces can be read and nothing else. A namespace is in itself, and in no other.
fn check_scope(info: &RequestInfo, resource: &Resource) -> Result<(), Status> {
    let is_itself = &*resource.key == "namespaces" && info.name == info.namespace;
    let in_namespace = !info.namespace.is_empty() && !is_itself;
    match (resource.def.namespaced, in_namespace, info.verb) {
        (true, true, _) | (false, false, _) | (true, false, Verb::List | Verb::Watch) => Ok(()),
        (true, false, _) if info.name.is_empty() => Err(not_allowed(resource, info.verb)),
        (true, false, _) | (false, true, _) => Err(Status::no_such_path()),
    }
}

fn not_allowed(resource: &Resource, verb: Verb) -> Status {
    let text = "the server does not allow this method on the requested resource";
    let mut status = Status::method_not_allowed(&resource.group_resource(), verb.as_str());
    status.message = text.to_owned();
    status
}

/// None: a method that no resource answers.
fn schema_verb(verb: Verb) -> Option<SchemaVerb> {
    match verb {
        Verb::Get => Some(SchemaVerb::Get),
        Verb::List => Some(SchemaVerb::List),
        Verb::Watch => Some(SchemaVerb::Watch),
        Verb::Create => Some(SchemaVerb::Create),
        Verb::Update => Some(SchemaVerb::Update),
        Verb::Patch => Some(SchemaVerb::Patch),
        Verb::Delete => Some(SchemaVerb::Delete),
        Verb::DeleteCollection => Some(SchemaVerb::DeleteCollection),
        Verb::Proxy | Verb::Unknown => None,
    }
}

/// What upstream warns of on every use of a kind that is on its way out.
fn deprecation(resource: &Resource) -> Option<&'static str> {
    match &*resource.key {
        "componentstatuses" => Some("v1 ComponentStatus is deprecated in v1.19+"),
        "endpoints" => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

impl Call<'_> {
    async fn run(mut self, body: Body) -> Result<Response, Status> {
        self.check_verb()?;
        if let Some(text) = deprecation(&self.resource) {
            self.context.warn(text);
        }
        if self.context.subresource.is_empty() && matches!(self.context.verb, Verb::Create | Verb::Update | Verb::Patch)
        {
            self.warn_if_unacted();
        }
        let result = match self.context.verb {
            Verb::Get => self.get(),
            Verb::List => self.list(),
            Verb::Watch => self.watch(),
            Verb::Create => self.create(body).await,
            Verb::Update | Verb::Patch => self.write(body).await,
            Verb::Delete => self.delete(body).await,
            Verb::DeleteCollection => self.delete_collection(body).await,
            Verb::Proxy | Verb::Unknown => Err(self.not_allowed()),
        };
        let warnings = self.context.take_warnings();
        let mut response = result.unwrap_or_else(|status| self.style.status(&status));
        respond::add_warnings(&mut response, &warnings);
        Ok(response)
    }

    fn warn_if_unacted(&self) {
        let def = &self.resource.def;
        if let Some(effect) = unacted::effect(&def.group, &def.plural) {
            let (kind, api) = (&def.kind, def.api_version());
            self.context.warn(format!("{api} {kind} is stored but not acted upon in this release: {effect}"));
        }
    }

    fn not_allowed(&self) -> Status {
        not_allowed(&self.resource, self.context.verb)
    }

    fn check_verb(&self) -> Result<(), Status> {
        let wanted = schema_verb(self.context.verb).ok_or_else(|| self.not_allowed())?;
        let def = &self.resource.def;
        let verbs = match self.context.subresource.as_str() {
            "" => def.verbs,
            name => def.subresource(name).ok_or_else(Status::no_such_path)?.verbs,
        };
        let (is_create, has_name) = (self.context.verb == Verb::Create, !self.info.name.is_empty());
        let posts_to_name = is_create && has_name && self.context.subresource.is_empty();
        let writes_all = matches!(self.context.verb, Verb::Update | Verb::Patch) && !has_name;
        let allowed = verbs.contains(wanted) && !posts_to_name && !writes_all;
        if allowed { Ok(()) } else { Err(self.not_allowed()) }
    }

    fn table_writer(&self) -> Result<TableWriter<'_>, Status> {
        Ok(TableWriter {
            tables: &*self.server.hooks.tables,
            resource: &self.resource,
            include: Include::parse(&self.info.query)?,
            meta_version: self.style.accepted.meta_version(),
            now: self.context.now,
        })
    }

    /// An object in the stored version, as the answer.
    fn written(&self, code: u16, written: &Written) -> Result<Response, Status> {
        let json = self.resource.conversion.served_json(&self.resource, &written.json)?;
        self.object(code, json)
    }

    fn object(&self, code: u16, json: Bytes) -> Result<Response, Status> {
        self.style.object(code, json, |json| self.table_writer()?.one(&json, true))
    }

    fn get(&self) -> Result<Response, Status> {
        let asked = ListOptions::parse(&self.info.query, false)?.version;
        let registry = &self.server.registry;
        if self.context.subresource.is_empty() || self.context.subresource == "status" {
            let entry = registry.get(&self.resource, &self.context.namespace, &self.context.name, asked)?;
            return self.object(200, self.resource.conversion.served_json(&self.resource, &entry.json)?);
        }
        check_not_future(&registry.store.snapshot(), asked)?;
        let view = view_of(&self.resource, &self.context.subresource).ok_or_else(Status::no_such_path)?;
        let entry = registry.get(&self.resource, &self.context.namespace, &self.context.name, Asked::Newest)?;
        let json = self.resource.conversion.served_json(&self.resource, &entry.json)?;
        self.shown(200, view, &json)
    }

    /// A view of an object in the served version.
    fn shown(&self, code: u16, view: View, served: &Bytes) -> Result<Response, Status> {
        if view != View::Scale {
            return self.object(code, served.clone());
        }
        let object = serde_json::from_slice(served).map_err(Status::internal)?;
        let json = serde_json::to_vec(&view.show(object)?).map_err(Status::internal)?;
        self.style.body(code, json.into())
    }

    fn list(&self) -> Result<Response, Status> {
        let options = ListOptions::parse(&self.info.query, false)?;
        match self.server.registry.list(&self.resource, &self.context.namespace, options) {
            Ok(page) => self.style.list(&self.resource, &page, |page| self.table_writer()?.page(page)),
            Err(error) => list_failed(error),
        }
    }

    fn watch(&self) -> Result<Response, Status> {
        let mut options = ListOptions::parse(&self.info.query, true)?;
        if !self.context.name.is_empty() && options.fields.exact("metadata.name").is_none() {
            options.fields = coracle_api::selector::FieldSelector::equals("metadata.name", &*self.context.name);
        }
        let style = WatchStyle {
            accepted: self.style.accepted,
            include: Include::parse(&self.info.query)?,
            bookmarks: options.bookmarks,
            timeout_seconds: options.timeout_seconds,
        };
        let (registry, resource, namespace) = (&self.server.registry, &self.resource, &self.context.namespace);
        let user = &self.context.user;
        watch::respond(self.server, user, resource.clone(), || registry.watch(resource, namespace, &options), style)
    }

    fn take_write_options(&mut self, kind: &str) -> Result<(), Status> {
        let options = WriteOptions::parse(&self.info.query, kind)?;
        self.context.dry_run = options.dry_run;
        self.context.field_validation = options.field_validation;
        self.context.field_manager = options.field_manager;
        Ok(())
    }

    /// The body; one in protobuf as its JSON.
    async fn read(&self, body: Body) -> Result<Bytes, Status> {
        let bytes = body::read(body, self.server.limits.body_bytes).await?;
        if bytes.is_empty() || negotiate::media_type(&self.headers) != negotiate::PROTOBUF {
            return Ok(bytes);
        }
        let object = coracle_api::protobuf::decode(&bytes, self.resource.def.schema())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        serde_json::to_vec(&object).map(Bytes::from).map_err(Status::internal)
    }

    fn decode(&self, bytes: &Bytes, target: &Target<'_>) -> Result<Object, Status> {
        let format = match negotiate::body_encoding(&self.headers)? {
            Encoding::Json => Format::Json,
            Encoding::Yaml => Format::Yaml,
        };
        let decoded = decode(bytes, format, target, self.context.field_validation)?;
        decoded.warnings.into_iter().for_each(|text| self.context.warn(text));
        Ok(decoded.object)
    }

    async fn create(&mut self, body: Body) -> Result<Response, Status> {
        self.take_write_options("CreateOptions")?;
        negotiate::body_encoding(&self.headers)?;
        let bytes = self.read(body).await?;
        if !self.context.subresource.is_empty() {
            return self.act(&bytes).await;
        }
        let mut object = self.decode(&bytes, &Target::of(&self.resource.def))?;
        if let Some(answer) = self.review(&mut object)? {
            let json = serde_json::to_vec(&answer).map_err(Status::internal)?;
            return self.style.body(201, json.into());
        }
        if self.context.is("", "bindings") {
            return self.bind_by_collection(object).await;
        }
        self.settle_namespace(&mut object)?;
        check_new(&self.resource, &object)?;
        self.context.name = Arc::from(object.name());
        let object = self.resource.conversion.to_stored(&self.resource, object);
        let written = self.server.registry.create(&self.context, &self.resource, object).await?;
        self.written(201, &written)
    }

    /// The object is in the namespace that the path names, whether it says so or not.
    fn settle_namespace(&self, object: &mut Object) -> Result<(), Status> {
        if !self.resource.def.namespaced {
            object.remove(&["metadata", "namespace"]);
            return Ok(());
        }
        if object.namespace().is_empty() {
            object.set_namespace(&self.context.namespace);
        } else if *object.namespace() != *self.context.namespace {
            let text = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(text));
        }
        Ok(())
    }

    /// PUT and PATCH, of the object or of a view of it.
    async fn write(&mut self, body: Body) -> Result<Response, Status> {
        let is_put = self.context.verb == Verb::Update;
        if !is_put {
            // As upstream before the options, which depend on the kind: only an apply patch may force.
            PatchKind::of(negotiate::media_type(&self.headers))?;
        }
        self.take_write_options(if is_put { "UpdateOptions" } else { "PatchOptions" })?;
        let view = view_of(&self.resource, &self.context.subresource).ok_or_else(Status::no_such_path)?;
        if is_put {
            negotiate::body_encoding(&self.headers)?;
        }
        let bytes = self.read(body).await?;
        let (context, resource) = (&self.context, &self.resource);
        let target = view.target(resource)?;
        let written = if is_put {
            let mut sent = self.decode(&bytes, &target)?;
            self.check_name(&sent)?;
            self.settle_namespace(&mut sent)?;
            if sent.name().is_empty() {
                sent.set_name(&context.name);
            }
            let mut make = |current: Option<&Object>| {
                let sent = match current {
                    None => sent.clone(),
                    Some(_) if matches!(view, View::Whole | View::Status) => sent.clone(),
                    Some(current) => {
                        let served = resource.conversion.to_served(resource, current.clone());
                        view.put(context, sent.clone(), &served)?
                    }
                };
                Ok(resource.conversion.to_stored(resource, sent))
            };
            self.server.registry.update(context, resource, view.part(), &mut make).await?
        } else {
            let patch = Patch::parse(negotiate::media_type(&self.headers), &bytes)?;
            let mut make = |current: Option<&Object>| {
                let current = current.ok_or_else(|| Status::not_found(&resource.group_resource(), &context.name))?;
                let served = resource.conversion.to_served(resource, current.clone());
                let mut patched = patch.apply(context, &target, view.show(served.clone())?)?;
                self.settle_namespace(&mut patched)?;
                let object = view.put(context, patched, &served)?;
                Ok(resource.conversion.to_stored(resource, object))
            };
            self.server.registry.update(context, resource, view.part(), &mut make).await?
        };
        let code = if written.created { 201 } else { 200 };
        let json = resource.conversion.served_json(resource, &written.json)?;
        self.shown(code, view, &json)
    }

    fn check_name(&self, sent: &Object) -> Result<(), Status> {
        let (name, wanted) = (sent.name(), &*self.context.name);
        if name == wanted {
            return Ok(());
        }
        if name.is_empty() {
            return Err(Status::bad_request("name must be provided"));
        }
        Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )))
    }

    async fn delete_options(&self, body: Body) -> Result<DeleteOptions, Status> {
        let bytes = self.read(body).await?;
        if bytes.is_empty() {
            return DeleteOptions::parse(&self.info.query, &bytes);
        }
        match negotiate::body_encoding(&self.headers)? {
            Encoding::Json => DeleteOptions::parse(&self.info.query, &bytes),
            Encoding::Yaml => {
                let value = coracle_api::decode::yaml_value(&bytes)
                    .map_err(|error| Status::bad_request(format!("the body is no valid DeleteOptions: {error}")))?;
                DeleteOptions::parse(&self.info.query, value.to_string().as_bytes())
            }
        }
    }

    async fn delete(&mut self, body: Body) -> Result<Response, Status> {
        let options = self.delete_options(body).await?;
        self.context.dry_run = options.dry_run;
        match self.server.registry.delete(&self.context, &self.resource, &options).await? {
            Deleted::Gone(DeletedAnswer::Status(status)) => Ok(self.style.status(&status)),
            Deleted::Gone(DeletedAnswer::Object(written)) => self.written(200, &written),
            Deleted::Pending(written) => {
                // 202 only for those who asked for cascading in the old way, as upstream does.
                let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
                self.written(code, &written)
            }
        }
    }

    async fn delete_collection(&mut self, body: Body) -> Result<Response, Status> {
        let list = ListOptions::parse(&self.info.query, false)?;
        let options = self.delete_options(body).await?;
        self.context.dry_run = options.dry_run;
        let registry = &self.server.registry;
        match registry.delete_collection(&self.context, &self.resource, list, &options).await {
            Ok(entries) => {
                let revision = registry.store.snapshot().revision();
                let page = Page { entries, revision, continue_token: String::new(), remaining: None };
                self.style.list(&self.resource, &page, |page| self.table_writer()?.page(page))
            }
            Err(error) => list_failed(error),
        }
    }

    /// POST on a subresource.
    async fn act(&mut self, bytes: &Bytes) -> Result<Response, Status> {
        let def = self.resource.def.clone();
        let sub = def.subresource(&self.context.subresource).ok_or_else(Status::no_such_path)?;
        let target = Target::subresource(&def, sub).ok_or_else(Status::no_such_path)?;
        let mut object = match self.decode(bytes, &target) {
            // As upstream: kubectl before 1.22 knows no other spelling.
            Err(error) if &*def.plural == "pods" && self.context.subresource == "eviction" => {
                self.decode(bytes, &Target { version: "v1beta1", ..target }).map_err(|_older| error)?
            }
            decoded => decoded?,
        };
        let registry = &self.server.registry;
        if !object.name().is_empty() && *object.name() != *self.context.name {
            let text = format!("the name in the URL does not match the name in the {} object", sub.kind);
            return Err(Status::bad_request(text));
        }
        self.settle_namespace(&mut object)?;
        match (&*def.plural, self.context.subresource.as_str()) {
            ("pods", "binding") => {
                registry.bind(&self.context, &self.resource, &object).await?;
                Ok(self.style.status(&created()))
            }
            ("pods", "eviction") => {
                let options = object.path(&["deleteOptions"]).map(ToString::to_string).unwrap_or_default();
                let mut options = DeleteOptions::parse(&self.info.query, options.as_bytes())?;
                options.dry_run |= self.context.dry_run;
                self.context.dry_run = options.dry_run;
                registry.evict(&self.context, &self.resource, options).await?;
                Ok(self.style.status(&created()))
            }
            ("serviceaccounts", "token") => {
                let object = registry.token(&self.context, &self.resource, object, &self.server.hooks.signer)?;
                let json = serde_json::to_vec(&object).map_err(Status::internal)?;
                self.style.body(201, json.into())
            }
            _ => Err(self.not_allowed()),
        }
    }

    /// The old way to bind: a Binding POSTed to the namespace's bindings, named after the pod.
    async fn bind_by_collection(&mut self, mut binding: Object) -> Result<Response, Status> {
        self.settle_namespace(&mut binding)?;
        let pods = self.server.registry.catalog.get("", "v1", "pods").ok_or_else(Status::no_such_path)?;
        let user = self.context.user.clone();
        let mut context = Context::new(Verb::Create, pods.stored.clone(), pods.def.clone(), user, self.context.now);
        context.namespace = self.context.namespace.clone();
        context.name = Arc::from(binding.name());
        context.subresource = "binding".to_owned();
        context.dry_run = self.context.dry_run;
        self.server.registry.bind(&context, &pods, &binding).await?;
        Ok(self.style.status(&created()))
    }

    fn review(&self, object: &mut Object) -> Result<Option<Object>, Status> {
        super::reviews::answer(&self.server.hooks, &self.context, object)
    }
}

fn created() -> Status {
    Status::new(201, Reason::Unknown, "")
}

fn list_failed(error: ListError) -> Result<Response, Status> {
    match error {
        ListError::Status(status) => Err(status),
        ListError::PageExpired { status, continue_token } => Ok(respond::page_expired(&status, &continue_token)),
    }
}
