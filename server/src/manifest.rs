//! Reads the manifests of a folder and gives them to the API: what is new is created, what is there is patched.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_api::object::Object;
use coracle_api::schema::Schema;
use coracle_client::{Client, ResourceRef};
use serde::Deserialize as _;

/// Where `kubectl apply` looks for what was applied before.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A folder with an application.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) wasm: Vec<PathBuf>,
    pub(crate) objects: Vec<Object>,
}

impl Folder {
    /// Reads `*.wasm`, `*.yaml`, `*.yml` and `*.json`, by name; or one manifest if `path` is a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Folder> {
        let mut files = match path.is_dir() {
            false => vec![path.to_path_buf()],
            true => std::fs::read_dir(path)
                .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
                .with_context(|| format!("cannot read {}", path.display()))?,
        };
        files.sort();
        let mut folder = Folder::default();
        for file in files {
            match file.extension().and_then(|e| e.to_str()) {
                Some("wasm") => folder.wasm.push(file),
                Some("yaml" | "yml" | "json") => folder.objects.extend(objects(&file)?),
                _ => {}
            }
        }
        if folder.objects.is_empty() {
            bail!("{} holds no manifest: `up` takes a folder with *.yaml files, or one file", path.display());
        }
        Ok(folder)
    }
}

fn objects(file: &Path) -> anyhow::Result<Vec<Object>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut objects = Vec::new();
    for document in serde_norway::Deserializer::from_str(&text) {
        let value = Option::<serde_json::Value>::deserialize(document).with_context(|| file.display().to_string())?;
        match value {
            None => {}
            Some(value) => objects.push(Object::from_value(value).with_context(|| file.display().to_string())?),
        }
    }
    Ok(objects)
}

/// `deployment/hello created`, as kubectl says it.
pub(crate) async fn apply(client: &Client, object: &Object) -> anyhow::Result<String> {
    let (kind, name) = (object.kind().to_owned(), object.name().to_owned());
    let (group, version) = object.api_version().rsplit_once('/').unwrap_or(("", object.api_version()));
    let def = Schema::v1_36().resource_of_kind(group, version, &kind);
    let def =
        def.with_context(|| format!("{kind} {name}: this server has no kind {kind} in {}", object.api_version()))?;
    let namespace = def.namespaced.then(|| Some(object.namespace()).filter(|n| !n.is_empty()).unwrap_or("default"));
    let api = client.dynamic(ResourceRef::new(group, version, &def.plural, &kind, def.namespaced), namespace);
    let shown = match group {
        "" => format!("{}/{name}", def.singular),
        group => format!("{}.{group}/{name}", def.singular),
    };
    let mut applied = object.clone();
    let text = serde_json::to_string(object).context("an object can be written as JSON")?;
    applied.set_annotation(LAST_APPLIED, &format!("{text}\n"));
    match api.create(&applied).await {
        Ok(_) => Ok(format!("{shown} created")),
        Err(error) if error.is_already_exists() => {
            let before = api.get(&name).await.with_context(|| shown.clone())?;
            let patch = serde_json::to_value(&applied).context("an object can be written as JSON")?;
            let after = api.strategic_patch(&name, &patch).await.with_context(|| shown.clone())?;
            let same = before.revision() == after.revision();
            Ok(format!("{shown} {}", if same { "unchanged" } else { "configured" }))
        }
        Err(error) => Err(error).with_context(|| shown),
    }
}
