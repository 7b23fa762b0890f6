//! The content of the volumes that the node writes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use super::atomic::{File, Payload};
use super::{VolumeInput, token_key};
use crate::pod::downward;
use crate::sources::{Source, SourceError, SourceKey, SourceKind};

const MODE: i32 = 0o644;

pub(super) fn of(input: &VolumeInput<'_>, volume: &Volume) -> Result<Payload, String> {
    let mut payload = Payload::new();
    if let Some(map) = &volume.config_map {
        let mode = map.default_mode.unwrap_or(MODE);
        let wanted = Wanted { kind: SourceKind::ConfigMap, name: &map.name, optional: map.optional };
        keyed(input, wanted, map.items.as_deref(), mode, &mut payload)?;
    } else if let Some(secret) = &volume.secret {
        let mode = secret.default_mode.unwrap_or(MODE);
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let wanted = Wanted { kind: SourceKind::Secret, name, optional: secret.optional };
        keyed(input, wanted, secret.items.as_deref(), mode, &mut payload)?;
    } else if let Some(fields) = &volume.downward_api {
        let mode = fields.default_mode.unwrap_or(MODE);
        downward_files(input, fields.items.as_deref(), mode, &mut payload)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(MODE);
        for source in projected.sources.iter().flatten() {
            projection(input, source, mode, &mut payload)?;
        }
    }
    Ok(payload)
}

fn projection(
    input: &VolumeInput<'_>,
    source: &VolumeProjection,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    if let Some(map) = &source.config_map {
        let wanted = Wanted { kind: SourceKind::ConfigMap, name: &map.name, optional: map.optional };
        keyed(input, wanted, map.items.as_deref(), mode, payload)
    } else if let Some(secret) = &source.secret {
        let wanted = Wanted { kind: SourceKind::Secret, name: &secret.name, optional: secret.optional };
        keyed(input, wanted, secret.items.as_deref(), mode, payload)
    } else if let Some(fields) = &source.downward_api {
        downward_files(input, fields.items.as_deref(), mode, payload)
    } else if let Some(token) = &source.service_account_token {
        let stored = match input.tokens.get(&token_key(token)) {
            Some(Ok(stored)) => stored,
            Some(Err(message)) => return Err(message.clone()),
            None => return Err("the service account token was not asked for".to_owned()),
        };
        put(payload, &token.path, stored.token.clone().into_bytes(), mode);
        Ok(())
    } else {
        Err("this node does not provide projections of cluster trust bundles and pod certificates".to_owned())
    }
}

struct Wanted<'a> {
    kind: SourceKind,
    name: &'a str,
    optional: Option<bool>,
}

fn keyed(
    input: &VolumeInput<'_>,
    wanted: Wanted<'_>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    let optional = wanted.optional == Some(true);
    let Some(source) = find(input, &wanted)? else { return Ok(()) };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in &source.values {
            put(payload, key, value.clone(), mode);
        }
        return Ok(());
    };
    for item in items {
        match source.values.get(&item.key) {
            Some(value) => put(payload, &item.path, value.clone(), item.mode.unwrap_or(mode)),
            None if optional => {}
            None => {
                return Err(match wanted.kind {
                    SourceKind::ConfigMap => format!("configmap references non-existent config key: {}", item.key),
                    SourceKind::Secret => format!("references non-existent secret key: {}", item.key),
                });
            }
        }
    }
    Ok(())
}

fn find(input: &VolumeInput<'_>, wanted: &Wanted<'_>) -> Result<Option<Arc<Source>>, String> {
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    let key = SourceKey { kind: wanted.kind, namespace: namespace.into(), name: wanted.name.into() };
    match input.sources.get(&key) {
        Some(Ok(source)) => Ok(Some(source.clone())),
        Some(Err(SourceError::NotFound { .. })) if wanted.optional == Some(true) => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("{} \"{}\" was not asked for", wanted.kind.noun(), wanted.name)),
    }
}

fn downward_files(
    input: &VolumeInput<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(input.pod, input.facts, &field.field_path)?,
            (None, Some(resource)) => {
                let own = input.pod.spec.as_ref().and_then(|spec| spec.containers.first());
                let own = own.ok_or("the pod has no container")?;
                downward::resource(input.pod, own, input.facts, resource)?
            }
            (None, None) => return Err(format!("the file {} names no field", item.path)),
        };
        put(payload, &item.path, text.into_bytes(), item.mode.unwrap_or(mode));
    }
    Ok(())
}

fn put(payload: &mut Payload, path: &str, content: Vec<u8>, mode: i32) {
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    payload.insert(path.trim_start_matches("./").to_owned(), File { content, mode });
}
