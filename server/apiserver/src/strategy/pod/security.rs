//! Security contexts of pods and containers.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use super::super::check::{self, text};
use super::super::kind::Errors;

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL_SHAPE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

pub(super) fn pod(context: &PodSecurityContext, spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    id(context.fs_group, &path.child("fsGroup"), errors);
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    let groups = path.child("supplementalGroups");
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &groups.index(i), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(context, spec, &path.child("sysctls"), errors);
    let policies = &["Always", "OnRootMismatch"];
    check::one_of_opt(&context.fs_group_change_policy, policies, &path.child("fsGroupChangePolicy"), errors);
    let policies = &["Merge", "Strict"];
    check::one_of_opt(&context.supplemental_groups_policy, policies, &path.child("supplementalGroupsPolicy"), errors);
    let policies = &["MountOption", "Recursive"];
    check::one_of_opt(&context.se_linux_change_policy, policies, &path.child("seLinuxChangePolicy"), errors);
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

pub(super) fn container(context: &SecurityContext, path: &FieldPath<'_>, errors: &mut Errors) {
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    check::one_of_opt(&context.proc_mount, &["Default", "Unmasked"], &path.child("procMount"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, context, detail));
        }
        let added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        for capability in added {
            if capability == "CAP_SYS_ADMIN" {
                let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                errors.push(FieldError::invalid(path, context, detail));
            }
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn id(value: Option<i64>, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| !(0..=i64::from(i32::MAX)).contains(value)) {
        errors.push(FieldError::invalid(path, value, ID_RANGE));
    }
}

fn sysctls(context: &PodSecurityContext, spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let at = path.index(i);
        let name = at.child("name");
        if sysctl.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else if !is_sysctl(&sysctl.name) {
            errors.push(FieldError::invalid(&name, &sysctl.name, SYSCTL_SHAPE));
        } else if seen.contains(&&sysctl.name) {
            errors.push(FieldError::duplicate(&name, &sysctl.name));
        }
        if spec.host_network == Some(true) && sysctl.name.starts_with("net.") {
            errors.push(FieldError::invalid(&name, &sysctl.name, "may not be specified when 'hostNetwork' is true"));
        }
        let of_ipc = sysctl.name.starts_with("kernel.shm")
            || sysctl.name.starts_with("kernel.msg")
            || sysctl.name == "kernel.sem"
            || sysctl.name.starts_with("fs.mqueue.");
        if spec.host_ipc == Some(true) && of_ipc {
            errors.push(FieldError::invalid(&name, &sysctl.name, "may not be specified when 'hostIPC' is true"));
        }
        seen.push(&sysctl.name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        let inner = bytes.iter().all(|c| alnum(*c) || matches!(c, b'-' | b'_'));
        inner && bytes.first().copied().is_some_and(alnum) && bytes.last().copied().is_some_and(alnum)
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn seccomp(profile: Option<&SeccompProfile>, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let local = path.child("localhostProfile");
    match profile.type_.as_str() {
        "" => errors.push(FieldError::required(&path.child("type"), "type is required when seccompProfile is set")),
        other if !PROFILES.contains(&other) => {
            errors.push(FieldError::not_supported(&path.child("type"), other, PROFILES));
        }
        _ => {}
    }
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => {
            errors.push(FieldError::required(&local, "must be set when seccomp type is Localhost"));
        }
        (Some(file), true) => check::local_path(file, &local, errors),
        (Some(_), false) => {
            errors.push(FieldError::invalid(&local, profile, "can only be set when seccomp type is Localhost"));
        }
        (None, false) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let local = path.child("localhostProfile");
    match profile.type_.as_str() {
        "Localhost" => {
            let name = text(&profile.localhost_profile);
            if name.trim().is_empty() {
                errors.push(FieldError::required(&local, "must be set when AppArmor type is Localhost"));
            } else if name.trim() != name {
                errors.push(FieldError::invalid(&local, name, "must not be padded with whitespace"));
            }
            if name.len() > 4095 {
                errors.push(FieldError::too_long(&local, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = &profile.localhost_profile {
                errors.push(FieldError::invalid(&local, name, "can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(FieldError::required(&path.child("type"), "type is required when appArmorProfile is set")),
        other => errors.push(FieldError::not_supported(&path.child("type"), other, PROFILES)),
    }
}
