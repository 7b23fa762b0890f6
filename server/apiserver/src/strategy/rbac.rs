//! Roles and their bindings.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::check::{self, fill, text};
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const GROUP: &str = "rbac.authorization.k8s.io";
const KINDS: &[&str] = &["ServiceAccount", "User", "Group"];

pub(super) struct Roles;

impl Kind for Roles {
    type Type = Role;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, role: &Role, errors: &mut Errors) {
        rules(role.rules.as_deref(), true, errors);
    }

    fn validate_update(&self, context: &Context, new: &Role, _old: &Role, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }
}

pub(super) struct ClusterRoles;

impl Kind for ClusterRoles {
    type Type = ClusterRole;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, role: &ClusterRole, errors: &mut Errors) {
        rules(role.rules.as_deref(), false, errors);
        let Some(aggregation) = &role.aggregation_rule else { return };
        let path = FieldPath::new("aggregationRule");
        let list = path.child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&list, detail));
        }
        for (i, selector) in selectors.iter().enumerate() {
            check::label_selector(selector, &list.index(i), errors);
        }
    }

    fn validate_update(&self, context: &Context, new: &ClusterRole, _old: &ClusterRole, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }
}

fn rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    let list = FieldPath::new("rules");
    for (i, rule) in rules.into_iter().flatten().enumerate() {
        let at = list.index(i);
        let blank = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if rule.verbs.is_empty() {
            errors.push(FieldError::required(&at.child("verbs"), "verbs must contain at least one value"));
        }
        if !blank(&rule.non_resource_urls) {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&at.child("nonResourceURLs"), &rule.non_resource_urls, detail));
            }
            if !blank(&rule.api_groups) || !blank(&rule.resources) || !blank(&rule.resource_names) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&at.child("nonResourceURLs"), &rule.non_resource_urls, detail));
            }
            continue;
        }
        if blank(&rule.api_groups) {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&at.child("apiGroups"), detail));
        }
        if blank(&rule.resources) {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&at.child("resources"), detail));
        }
    }
}

pub(super) struct RoleBindings;

impl Kind for RoleBindings {
    type Type = RoleBinding;

    fn default(&self, binding: &mut RoleBinding) {
        default(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate_create(&self, _context: &Context, binding: &RoleBinding, errors: &mut Errors) {
        role_ref(&binding.role_ref, &["Role", "ClusterRole"], errors);
        subjects(binding.subjects.as_deref(), true, errors);
    }

    fn validate_update(&self, context: &Context, new: &RoleBinding, old: &RoleBinding, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        same_role(&new.role_ref, &old.role_ref, errors);
    }
}

pub(super) struct ClusterRoleBindings;

impl Kind for ClusterRoleBindings {
    type Type = ClusterRoleBinding;

    fn default(&self, binding: &mut ClusterRoleBinding) {
        default(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate_create(&self, _context: &Context, binding: &ClusterRoleBinding, errors: &mut Errors) {
        role_ref(&binding.role_ref, &["ClusterRole"], errors);
        subjects(binding.subjects.as_deref(), false, errors);
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &ClusterRoleBinding,
        old: &ClusterRoleBinding,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
        same_role(&new.role_ref, &old.role_ref, errors);
    }
}

fn default(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    fill(&mut role.api_group, GROUP);
    for subject in subjects.into_iter().flatten() {
        match subject.kind.as_str() {
            "User" | "Group" => fill(&mut subject.api_group, GROUP),
            _ => {}
        }
    }
}

fn role_ref(role: &RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = FieldPath::new("roleRef");
    if text(&role.api_group) != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), text(&role.api_group), &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.child("kind"), &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        check::problems(names::path_segment(&role.name), &path.child("name"), &role.name, errors);
    }
}

fn subjects(subjects: Option<&[Subject]>, namespaced: bool, errors: &mut Errors) {
    let list = FieldPath::new("subjects");
    for (i, subject) in subjects.into_iter().flatten().enumerate() {
        let at = list.index(i);
        let group = text(&subject.api_group);
        check::required_text(&subject.name, &at.child("name"), errors);
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    check::dns_subdomain(&subject.name, &at.child("name"), errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(&at.child("apiGroup"), group, &[""]));
                }
                if !namespaced && text(&subject.namespace).is_empty() {
                    errors.push(FieldError::required(&at.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(FieldError::not_supported(&at.child("apiGroup"), group, &[GROUP]));
                }
            }
            other => errors.push(FieldError::not_supported(&at.child("kind"), other, KINDS)),
        }
    }
}

fn same_role(new: &RoleRef, old: &RoleRef, errors: &mut Errors) {
    if new != old {
        errors.push(FieldError::invalid(&FieldPath::new("roleRef"), new, "cannot change roleRef"));
    }
}
