//! `coracle image`: this host's Wasm images, in the store that the Wasm runtime reads. No server is asked.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::{Credentials, Image, ImageStore, Registries};

use crate::cli::{ImageArgs, ImageCommand};
use crate::paths::Paths;

/// The store that the Wasm runtime of this data directory reads.
pub(crate) fn store(paths: &Paths) -> anyhow::Result<ImageStore> {
    Ok(ImageStore::open(FrontConfig::image_dir(paths.root()))?)
}

/// Takes a file into the store. A bare Wasm file without a name gets its own with the tag `dev`.
pub(crate) fn import(store: &ImageStore, file: &Path, name: Option<&str>) -> anyhow::Result<Vec<Image>> {
    let stem = file.file_stem().map(|s| s.to_string_lossy().to_lowercase().replace('_', "-"));
    let default = stem.filter(|_| file.extension().is_some_and(|e| e == "wasm")).map(|stem| format!("{stem}:dev"));
    let images = store.import(file, name.or(default.as_deref()));
    images.with_context(|| format!("cannot import {}", file.display()))
}

pub(crate) async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let paths = Paths::open(args.common.data_dir.as_deref())?;
    let store = store(&paths)?;
    let mut out = std::io::stdout().lock();
    match args.command {
        ImageCommand::Import { file, name } => {
            for image in import(&store, &file, name.as_deref())? {
                writeln!(out, "{} {} ({})", image.name, image.id, size(image.size_bytes))?;
            }
        }
        ImageCommand::List => {
            let mut images = store.list()?;
            images.sort_by(|a, b| a.name.cmp(&b.name));
            writeln!(out, "{:<60} {:<19} SIZE", "IMAGE", "ID")?;
            for image in images {
                let id = image.id.to_string();
                writeln!(out, "{:<60} {:<19} {}", image.name, id.get(..19).unwrap_or(&id), size(image.size_bytes))?;
            }
        }
        ImageCommand::Remove { names } => {
            for name in names {
                let removed = store.remove(&name)?;
                if removed.is_empty() {
                    bail!("no image {name:?} is here: `coracle image list` shows those that are");
                }
                for name in removed {
                    writeln!(out, "removed {name}")?;
                }
            }
        }
        ImageCommand::Push { name, creds, plain_http } => {
            let credentials = match creds.as_deref().map(|c| c.split_once(':')) {
                None => Credentials::Anonymous,
                Some(Some((user, password))) => {
                    Credentials::Password { user: user.to_owned(), password: password.to_owned() }
                }
                Some(None) => bail!("--creds is USER:PASSWORD"),
            };
            let insecure = if plain_http { vec![registry_of(&name)?] } else { Vec::new() };
            let digest = store.push(&name, None, &credentials, &Registries { insecure }).await?;
            writeln!(out, "pushed {name} {digest}")?;
        }
    }
    Ok(())
}

fn registry_of(name: &str) -> anyhow::Result<String> {
    Ok(coracle_shim_wasm::images::ImageName::parse(name)?.host().to_owned())
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
