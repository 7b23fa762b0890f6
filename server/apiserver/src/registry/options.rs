//! ListOptions, DeleteOptions and the options of writes, read from the query or a body and checked as upstream does.

use coracle_api::decode::FieldValidation;
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::{GroupKind, Revision};
use coracle_api::selector::{FieldSelector, LabelSelector, ParseSelectorError};
use coracle_api::status::Status;
use serde::Deserialize;

use crate::http::query::Query;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    NotOlderThan,
    Exact,
}

/// `resourceVersion` of a read: not given, "0" (anything will do), or a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Newest,
    Any,
    At(Revision),
}

#[derive(Debug, Clone)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub version: Asked,
    pub version_match: VersionMatch,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

const LIST_KIND: &str = "ListOptions";

impl ListOptions {
    pub fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let version = match query.text("resourceVersion") {
            "" => Asked::Newest,
            "0" => Asked::Any,
            text => Asked::At(parse_revision(text)?),
        };
        let unreadable = |error: ParseSelectorError| Status::bad_request(error.to_string());
        let labels: LabelSelector = query.text("labelSelector").parse().map_err(unreadable)?;
        let fields: FieldSelector = query.text("fieldSelector").parse().map_err(unreadable)?;
        let options = Self {
            labels,
            fields,
            version,
            version_match: match query.text("resourceVersionMatch") {
                "Exact" => VersionMatch::Exact,
                "NotOlderThan" => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            limit: usize::try_from(query.integer("limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            timeout_seconds: query.integer("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        let errors = if watch { options.watch_errors(query) } else { options.list_errors(query) };
        if errors.is_empty() { Ok(options) } else { Err(invalid_options(LIST_KIND, errors)) }
    }

    fn list_errors(&self, query: &Query) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = FieldPath::new("resourceVersionMatch");
        let text = query.text("resourceVersionMatch");
        if !text.is_empty() {
            if self.version == Asked::Newest {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(&path, detail));
            }
            if !self.continue_token.is_empty() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(&path, detail));
            }
            if self.version_match == VersionMatch::Unset {
                errors.push(FieldError::not_supported(&path, text, &["Exact", "NotOlderThan", ""]));
            }
            if self.version_match == VersionMatch::Exact && self.version == Asked::Any {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        if self.send_initial_events.is_some() {
            let path = FieldPath::new("sendInitialEvents");
            errors.push(FieldError::forbidden(&path, "sendInitialEvents is forbidden for list"));
        }
        errors
    }

    fn watch_errors(&self, query: &Query) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = FieldPath::new("resourceVersionMatch");
        let text = query.text("resourceVersionMatch");
        if self.send_initial_events.is_some() {
            if text.is_empty() {
                let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                errors.push(FieldError::forbidden(&path, detail));
            } else if self.version_match != VersionMatch::NotOlderThan {
                errors.push(FieldError::not_supported(&path, text, &["NotOlderThan"]));
            }
        } else if !text.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        errors
    }
}

fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        let path = FieldPath::new("resourceVersion");
        let detail = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        invalid_options(LIST_KIND, vec![FieldError::invalid(&path, text, detail)])
    })
}

fn invalid_options(kind: &str, errors: Vec<FieldError>) -> Status {
    Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors)
}

/// CreateOptions, UpdateOptions and PatchOptions.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
}

impl WriteOptions {
    /// `kind` names the options in errors: `CreateOptions`…
    pub fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let path = FieldPath::new("fieldValidation");
                errors.push(FieldError::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        // Server-side apply, which may force, is refused as a media type.
        if kind == "PatchOptions" && query.get("force").is_some() {
            let path = FieldPath::new("force");
            errors.push(FieldError::forbidden(&path, "may not be specified for non-apply patch"));
        }
        let field_manager = query.text("fieldManager").to_owned();
        if field_manager.chars().count() > 128 {
            errors.push(FieldError::too_long(&FieldPath::new("fieldManager"), 128));
        }
        if !errors.is_empty() {
            return Err(invalid_options(kind, errors));
        }
        Ok(Self { dry_run, field_manager, field_validation })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let mut dry_run = false;
    for value in values {
        dry_run = true;
        if value != "All" {
            errors.push(FieldError::not_supported(&FieldPath::new("dryRun"), value, &["All"]));
        }
    }
    dry_run
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    /// Already at least 0: a negative period means 1 second.
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
}

/// The body's form.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireOptions {
    kind: String,
    grace_period_seconds: Option<i64>,
    preconditions: Option<WirePreconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WirePreconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the body if there is one (JSON; YAML has been turned into it), else from the query. The query's dry run
    /// counts in both cases, so that `--dry-run` beside a body never deletes.
    pub fn parse(query: &Query, body: &[u8]) -> Result<Self, Status> {
        let wire = if body.is_empty() {
            WireOptions {
                kind: String::new(),
                grace_period_seconds: query.integer("gracePeriodSeconds")?,
                preconditions: None,
                orphan_dependents: query.flag("orphanDependents"),
                propagation_policy: query.get("propagationPolicy").map(str::to_owned),
                dry_run: Some(query.all("dryRun").map(str::to_owned).collect()),
            }
        } else {
            let mut wire: WireOptions = serde_json::from_slice(body)
                .map_err(|error| Status::bad_request(format!("the body is no valid DeleteOptions: {error}")))?;
            wire.dry_run.get_or_insert_default().extend(query.all("dryRun").map(str::to_owned));
            wire
        };
        Self::check(wire)
    }

    fn check(wire: WireOptions) -> Result<Self, Status> {
        if !wire.kind.is_empty() && wire.kind != "DeleteOptions" {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        let mut errors = Vec::new();
        let path = FieldPath::new("propagationPolicy");
        let propagation = match wire.propagation_policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.push(FieldError::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
                None
            }
        };
        if wire.orphan_dependents.is_some() && wire.propagation_policy.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, wire.propagation_policy.unwrap_or_default(), detail));
        }
        let dry_run = dry_run(wire.dry_run.iter().flatten().map(String::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(invalid_options("DeleteOptions", errors));
        }
        let preconditions = wire.preconditions.unwrap_or_default();
        Ok(Self {
            dry_run,
            grace_period_seconds: wire.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            orphan_dependents: wire.orphan_dependents,
            propagation,
        })
    }
}
