//! CertificateSigningRequests: who asked is written down by the server and never changes.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use serde_json::json;

use super::check;
use super::kind::{Errors, Kind};
use super::{keep, keep_all_but_status};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const MIN_SECONDS: i32 = 600;

pub(super) struct SigningRequests;

impl Kind for SigningRequests {
    type Type = CertificateSigningRequest;
    const DEFAULTS: bool = false;

    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        object.remove(&["status"]);
        let user = &context.user;
        object.set(&["spec", "username"], user.name.as_str());
        object.remove(&["spec", "uid"]);
        if !user.uid.is_empty() {
            object.set(&["spec", "uid"], user.uid.as_str());
        }
        object.set(&["spec", "groups"], user.groups.clone());
        object.remove(&["spec", "extra"]);
        if !user.extra.is_empty() {
            object.set(&["spec", "extra"], json!(user.extra));
        }
    }

    fn prepare_for_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep(object, old, "spec");
        keep(object, old, "status");
    }

    fn prepare_status_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    fn validate_create(&self, _context: &Context, request: &CertificateSigningRequest, errors: &mut Errors) {
        let spec = &request.spec;
        let pem = String::from_utf8_lossy(&spec.request.0);
        let (path, detail) = (SPEC.child("request"), "PEM block type must be CERTIFICATE REQUEST");
        if spec.request.0.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
            errors.push(FieldError::invalid(&path, pem, detail));
        }
        let usages = spec.usages.as_deref().unwrap_or_default();
        if usages.is_empty() {
            errors.push(FieldError::required(&SPEC.child("usages"), ""));
        }
        let signer = SPEC.child("signerName");
        if spec.signer_name.is_empty() {
            errors.push(FieldError::required(&signer, ""));
        } else if !spec.signer_name.contains('/') {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(FieldError::invalid(&signer, &spec.signer_name, detail));
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < MIN_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid(&SPEC.child("expirationSeconds"), seconds, detail));
        }
    }

    fn validate_update(
        &self,
        _context: &Context,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        errors: &mut Errors,
    ) {
        // The approval comes this way, too.
        conditions(new, old, errors);
        check::immutable(&new.spec, &old.spec, &SPEC, errors);
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
        errors: &mut Errors,
    ) {
        let certificate =
            |request: &CertificateSigningRequest| request.status.as_ref().and_then(|status| status.certificate.clone());
        if certificate(old).is_some() && certificate(new) != certificate(old) {
            let path = FieldPath::new("status.certificate");
            errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
        }
        conditions(new, old, errors);
    }
}

type Conditions<'a> = Vec<&'a CertificateSigningRequestCondition>;

fn conditions(new: &CertificateSigningRequest, old: &CertificateSigningRequest, errors: &mut Errors) {
    let of = |request| -> Conditions<'_> {
        let request: &CertificateSigningRequest = request;
        request.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect()
    };
    let path = FieldPath::new("status.conditions");
    let (now, before) = (of(new), of(old));
    let has = |list: &Conditions<'_>, kind: &str| list.iter().any(|condition| condition.type_ == kind);
    for kind in ["Approved", "Denied", "Failed"] {
        if has(&before, kind) && !has(&now, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    if has(&now, "Approved") && has(&now, "Denied") {
        errors.push(FieldError::invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive"));
    }
    for (i, condition) in now.iter().enumerate() {
        let at = path.index(i);
        check::required_text(&condition.type_, &at.child("type"), errors);
        let status = &condition.status;
        if matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed") {
            check::one_of(status, &["True"], &at.child("status"), errors);
        } else {
            check::one_of(status, &["True", "False", "Unknown"], &at.child("status"), errors);
        }
        let twice = now[..i].iter().any(|other| other.type_ == condition.type_);
        if twice {
            errors.push(FieldError::duplicate(&at.child("type"), &condition.type_));
        }
    }
}
