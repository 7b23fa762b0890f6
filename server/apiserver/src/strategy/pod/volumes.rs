//! A pod's volumes, and where containers mount them.

use std::collections::{BTreeMap, HashSet};

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeDevice, VolumeMount, VolumeProjection,
};

use super::super::check::{self, number, text};
use super::super::kind::Errors;
use super::env;

/// Volumes of a pod that are what they should be, by name.
pub(super) type Known<'a> = BTreeMap<&'a str, &'a Volume>;

const ONE_TYPE: &str = "may not specify more than 1 volume type";
const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// How many sources are given, and under which names, in upstream's order of checking.
fn sources(v: &Volume) -> [(&'static str, bool); 30] {
    [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("secret", v.secret.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephFS", v.cephfs.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("downwarAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageos", v.storageos.is_some()),
        ("projected", v.projected.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("image", v.image.is_some()),
    ]
}

pub(super) fn source_count(volume: &Volume) -> usize {
    sources(volume).iter().filter(|(_, given)| *given).count()
}

pub(super) fn validate<'a>(volumes: &'a [Volume], path: &FieldPath<'_>, errors: &mut Errors) -> Known<'a> {
    let mut known = Known::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let before = errors.len();
        source(volume, &at, errors);
        let name = at.child("name");
        if volume.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else {
            check::dns_label(&volume.name, &name, errors);
        }
        if known.contains_key(volume.name.as_str()) {
            errors.push(FieldError::duplicate(&name, &volume.name));
        }
        if errors.len() == before {
            known.insert(&volume.name, volume);
        }
    }
    known
}

fn source(volume: &Volume, at: &FieldPath<'_>, errors: &mut Errors) {
    let mut given = sources(volume).into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
    if given.next().is_none() {
        errors.push(FieldError::required(at, "must specify a volume type"));
        return;
    }
    for second in given {
        errors.push(FieldError::forbidden(&at.child(second), ONE_TYPE));
    }
    if let Some(empty) = &volume.empty_dir
        && empty.size_limit.as_ref().is_some_and(|limit| number(limit).is_negative())
    {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&at.child("emptyDir.sizeLimit"), detail));
    }
    if let Some(host) = &volume.host_path {
        check::required_text(&host.path, &at.child("hostPath.path"), errors);
        check::no_backsteps(&host.path, &at.child("hostPath.path"), errors);
        check::one_of_opt(&host.type_, HOST_PATH_TYPES, &at.child("hostPath.type"), errors);
    }
    if let Some(secret) = &volume.secret {
        let here = at.child("secret");
        check::required_text(text(&secret.secret_name), &here.child("secretName"), errors);
        check::file_mode(secret.default_mode, &here.child("defaultMode"), errors);
        keys_to_paths(secret.items.as_deref(), &here.child("items"), errors);
    }
    if let Some(config) = &volume.config_map {
        let here = at.child("configMap");
        check::required_text(&config.name, &here.child("name"), errors);
        check::file_mode(config.default_mode, &here.child("defaultMode"), errors);
        keys_to_paths(config.items.as_deref(), &here.child("items"), errors);
    }
    if let Some(nfs) = &volume.nfs {
        check::required_text(&nfs.server, &at.child("nfs.server"), errors);
        check::required_text(&nfs.path, &at.child("nfs.path"), errors);
        if !nfs.path.starts_with('/') {
            errors.push(FieldError::invalid(&at.child("nfs.path"), &nfs.path, "must be an absolute path"));
        }
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        check::required_text(&claim.claim_name, &at.child("persistentVolumeClaim.claimName"), errors);
    }
    if let Some(downward) = &volume.downward_api {
        let here = at.child("downwardAPI");
        check::file_mode(downward.default_mode, &here.child("defaultMode"), errors);
        downward.items.iter().flatten().for_each(|file| downward_file(file, &here, errors));
    }
    if let Some(projected) = &volume.projected {
        projections(projected, &at.child("projected"), errors);
    }
    if let Some(csi) = &volume.csi {
        check::required_text(&csi.driver, &at.child("csi.driver"), errors);
    }
    if let Some(ephemeral) = &volume.ephemeral {
        let here = at.child("ephemeral.volumeClaimTemplate");
        match &ephemeral.volume_claim_template {
            None => errors.push(FieldError::required(&here, "")),
            Some(template) => super::super::claim::spec(&template.spec, &here.child("spec"), errors),
        }
    }
    if let Some(image) = &volume.image {
        check::required_text(text(&image.reference), &at.child("image.reference"), errors);
        let policies = &["Always", "IfNotPresent", "Never"];
        check::one_of(text(&image.pull_policy), policies, &at.child("image.pullPolicy"), errors);
    }
}

fn keys_to_paths(items: Option<&[KeyToPath]>, path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let at = path.index(i);
        check::required_text(&item.key, &at.child("key"), errors);
        check::required_text(&item.path, &at.child("path"), errors);
        check::local_non_reserved_path(&item.path, &at.child("path"), errors);
        check::file_mode(item.mode, &at.child("mode"), errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, at: &FieldPath<'_>, errors: &mut Errors) {
    check::required_text(&file.path, &at.child("path"), errors);
    check::local_non_reserved_path(&file.path, &at.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), other) => {
            env::field_selector(field, DOWNWARD_FIELDS, &at.child("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(at, "resource", detail));
            }
        }
        (None, Some(resource)) => env::resource_selector(resource, true, &at.child("resourceFieldRef"), errors),
        (None, None) => errors.push(FieldError::required(at, "one of fieldRef and resourceFieldRef is required")),
    }
    check::file_mode(file.mode, &at.child("mode"), errors);
}

fn projections(projected: &ProjectedVolumeSource, path: &FieldPath<'_>, errors: &mut Errors) {
    check::file_mode(projected.default_mode, &path.child("defaultMode"), errors);
    let list = path.child("sources");
    let mut paths = HashSet::new();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let at = list.index(i);
        let given = projection_count(source);
        if given > 1 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type"));
        }
        projection(source, &at, path, errors);
        for (owner, file) in projected_paths(source) {
            if !file.is_empty() && !paths.insert(file) {
                errors.push(FieldError::invalid(path, owner, "conflicting duplicate paths"));
            }
        }
    }
}

fn projection_count(source: &VolumeProjection) -> usize {
    [
        source.secret.is_some(),
        source.config_map.is_some(),
        source.downward_api.is_some(),
        source.service_account_token.is_some(),
        source.cluster_trust_bundle.is_some(),
        source.pod_certificate.is_some(),
    ]
    .into_iter()
    .filter(|given| *given)
    .count()
}

fn projection(source: &VolumeProjection, at: &FieldPath<'_>, volume: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(secret) = &source.secret {
        check::required_text(&secret.name, &at.child("secret.name"), errors);
        keys_to_paths(secret.items.as_deref(), &at.child("secret.items"), errors);
    }
    if let Some(config) = &source.config_map {
        check::required_text(&config.name, &at.child("configMap.name"), errors);
        keys_to_paths(config.items.as_deref(), &at.child("configMap.items"), errors);
    }
    if let Some(downward) = &source.downward_api {
        let here = at.child("downwardAPI");
        downward.items.iter().flatten().for_each(|file| downward_file(file, &here, errors));
    }
    if let Some(token) = &source.service_account_token {
        let seconds = token.expiration_seconds.unwrap_or_default();
        let here = at.child("serviceAccountToken.expirationSeconds");
        if seconds < 600 {
            errors.push(FieldError::invalid(&here, seconds, "may not specify a duration less than 10 minutes"));
        } else if seconds > 1 << 32 {
            errors.push(FieldError::invalid(&here, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        check::required_text(&token.path, &volume.child("path"), errors);
        check::local_non_reserved_path(&token.path, &volume.child("path"), errors);
    }
}

fn projected_paths(source: &VolumeProjection) -> Vec<(&str, &str)> {
    let mut paths = Vec::new();
    if let Some(secret) = &source.secret {
        paths.extend(secret.items.iter().flatten().map(|item| (secret.name.as_str(), item.path.as_str())));
    }
    if let Some(config) = &source.config_map {
        paths.extend(config.items.iter().flatten().map(|item| (config.name.as_str(), item.path.as_str())));
    }
    if let Some(downward) = &source.downward_api {
        paths.extend(downward.items.iter().flatten().map(|item| (item.path.as_str(), item.path.as_str())));
    }
    paths
}

/// Mounts and devices of one container.
pub(super) fn mounts(
    mounts: &[VolumeMount],
    devices: &[VolumeDevice],
    known: &Known<'_>,
    privileged: bool,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let list = path.child("volumeMounts");
    let mut seen = HashSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let at = list.index(i);
        let (name, mount_path) = (at.child("name"), at.child("mountPath"));
        check::required_text(&mount.name, &name, errors);
        let volume = known.get(mount.name.as_str());
        if volume.is_none() {
            errors.push(FieldError::not_found(&name, &mount.name));
        }
        check::required_text(&mount.mount_path, &mount_path, errors);
        if !seen.insert(&mount.mount_path) {
            errors.push(FieldError::invalid(&mount_path, &mount.mount_path, "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.push(FieldError::invalid(&name, &mount.name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&mount_path, &mount.mount_path, detail));
        }
        let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        if volume.is_some_and(|volume| volume.image.is_some()) && !sub_path.is_empty() {
            let detail = "not allowed in image volume sources";
            errors.push(FieldError::invalid(&at.child("subPath"), sub_path, detail));
        }
        check::local_path(sub_path, &list.child("subPath"), errors);
        if !expression.is_empty() && !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&at.child("subPathExpr"), expression, detail));
        }
        check::local_path(expression, &list.child("subPathExpr"), errors);
        propagation(mount, privileged, &list, errors);
    }
    self::devices(devices, mounts, known, path, errors);
}

fn propagation(mount: &VolumeMount, privileged: bool, list: &FieldPath<'_>, errors: &mut Errors) {
    let Some(mode) = &mount.mount_propagation else { return };
    let path = list.child("mountPropagation");
    let modes = &["Bidirectional", "HostToContainer", "None"];
    if !modes.contains(&mode.as_str()) {
        errors.push(FieldError::not_supported(&path, mode, modes));
    } else if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(&path, detail));
    }
}

fn devices(
    devices: &[VolumeDevice],
    mounts: &[VolumeMount],
    known: &Known<'_>,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let list = path.child("volumeDevices");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (i, device) in devices.iter().enumerate() {
        let at = list.index(i);
        let (name, device_path) = (at.child("name"), at.child("devicePath"));
        check::required_text(&device.name, &name, errors);
        if !names.insert(&device.name) {
            errors.push(FieldError::invalid(&name, &device.name, "must be unique"));
        }
        match known.get(device.name.as_str()) {
            None => errors.push(FieldError::not_found(&name, &device.name)),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&name, &device.name, detail));
            }
            Some(_) => {}
        }
        check::required_text(&device.device_path, &device_path, errors);
        if !paths.insert(&device.device_path) {
            errors.push(FieldError::invalid(&device_path, &device.device_path, "must be unique"));
        }
        if device.device_path.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&device_path, &device.device_path, detail));
        }
        if mounts.iter().any(|mount| mount.name == device.name) {
            errors.push(FieldError::invalid(&name, &device.name, "must not already exist in volumeMounts"));
        }
    }
}
