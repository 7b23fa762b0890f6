//! `coracle image`: this host's Wasm images, in the store that the Wasm runtime reads. No server is asked.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_shim_wasm::compile::{self, Interfaces, Reexec};
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::{
    ConfigFile, Credentials, DEFAULT_POLICY_FILE, DEFAULT_REGISTRIES_FILE, Image, ImageError, ImageStore, PushExtras,
    Registries, SigningKey,
};

use crate::cli::{ImageArgs, ImageCommand, ImageSourceArgs, Output, PushArgs};
use crate::image_table::{self, Inspected};
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

pub(crate) fn registries(args: ImageSourceArgs) -> Registries {
    Registries {
        insecure: args.insecure_registry,
        file: ConfigFile::named_or(args.private_registry, DEFAULT_REGISTRIES_FILE),
        policy: ConfigFile::named_or(args.image_policy, DEFAULT_POLICY_FILE),
        disable_default_endpoint: args.disable_default_registry_endpoint,
        max_layer_bytes: args.image_layer_limit,
        ..Registries::default()
    }
}

pub(crate) async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let data_dir = args.common.data_dir.as_deref();
    let text = match args.command {
        ImageCommand::Import { file, name } => {
            let images = import(&store(&Paths::open(data_dir)?)?, &file, name.as_deref())?;
            images.iter().map(|image| named("", image)).collect()
        }
        ImageCommand::List { output } => {
            let images = existing(data_dir)?.map_or(Ok(Vec::new()), |(_, store)| store.list())?;
            image_table::list(&images, output.output)?
        }
        ImageCommand::Inspect { names, output } => inspect_all(data_dir, &names, output.output)?,
        ImageCommand::Remove { names } => return remove(data_dir, &names),
        ImageCommand::Pull { name, creds, source } => {
            let store = store(&Paths::open(data_dir)?)?;
            let engine = compile::portable_engine(compiler()).await.map_err(anyhow::Error::msg)?;
            let pulled = store.pull(&name, &credentials(creds, &name)?, &registries(source), Some(&engine)).await;
            named("pulled ", &pulled.map_err(with_cure)?)
        }
        ImageCommand::Push(args) => push(&store(&Paths::open(data_dir)?)?, args).await?,
    };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn named(done: &str, image: &Image) -> String {
    format!("{done}{} {} ({})\n", image.name, image.id, size(image.size_bytes))
}

fn remove(data_dir: Option<&Path>, names: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for name in names {
        let removed = existing(data_dir)?.map_or(Ok(Vec::new()), |(_, store)| store.remove(name))?;
        if removed.is_empty() {
            return Err(absent(name));
        }
        for name in removed {
            writeln!(out, "removed {name}")?;
        }
    }
    Ok(())
}

async fn push(store: &ImageStore, args: PushArgs) -> anyhow::Result<String> {
    let PushArgs { name, target, creds, plain_http, key, precompiled, source } = args;
    let mut registries = registries(source);
    if plain_http {
        registries.insecure.push(registry_of(target.as_deref().unwrap_or(&name))?);
    }
    let key = key.as_deref().map(SigningKey::read).transpose().map_err(anyhow::Error::msg)?;
    let mut extras = PushExtras { code: Vec::new(), key };
    if precompiled {
        let image = store.get(&name)?.ok_or_else(|| absent(&name))?;
        extras.code = compile::precompile(store, &image, compiler()).await.map_err(anyhow::Error::msg)?;
    }
    let credentials = credentials(creds, target.as_deref().unwrap_or(&name))?;
    let pushed = store.push(&name, target.as_deref(), &credentials, &registries, &extras).await;
    let digest = pushed.map_err(with_cure)?;
    Ok(format!("pushed {} {digest}\n", target.unwrap_or(name)))
}

/// This program, as a compiler.
fn compiler() -> Reexec {
    Reexec { program: "/proc/self/exe".into(), args: vec!["wasm-compile".into()] }
}

fn with_cure(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Unauthorized { .. } => anyhow::anyhow!("{error}; log in with --creds USER:PASSWORD"),
        other => other.into(),
    }
}

/// For the registry in the image's name alone: its mirrors are others.
fn credentials(creds: Option<String>, name: &str) -> anyhow::Result<Credentials> {
    match creds.as_deref().map(|creds| creds.split_once(':')) {
        None => Ok(Credentials::Anonymous),
        Some(Some((user, password))) => {
            let password = Credentials::Password { user: user.to_owned(), password: password.to_owned() };
            Ok(Credentials::For { host: registry_of(name)?, credentials: Box::new(password) })
        }
        Some(None) => bail!("--creds is USER:PASSWORD"),
    }
}

/// The store, if there is one already: who only looks makes none.
fn existing(data_dir: Option<&Path>) -> anyhow::Result<Option<(PathBuf, ImageStore)>> {
    let Some(root) = Paths::if_there(data_dir)? else { return Ok(None) };
    let dir = FrontConfig::image_dir(&root);
    Ok(if dir.is_dir() { Some((root, ImageStore::open(dir)?)) } else { None })
}

fn absent(name: &str) -> anyhow::Error {
    anyhow::anyhow!("no image {name:?} is here: `coracle image list` shows those that are")
}

fn inspect_all(data_dir: Option<&Path>, names: &[String], output: Output) -> anyhow::Result<String> {
    let mut found = Vec::new();
    for name in names {
        let (root, store) = existing(data_dir)?.ok_or_else(|| absent(name))?;
        found.push(inspect(&root, &store, name)?);
    }
    Ok(match output {
        Output::Json => serde_json::to_string_pretty(&found)? + "\n",
        Output::Table => found.iter().map(image_table::inspected).collect::<Vec<_>>().join("\n"),
    })
}

fn inspect(root: &Path, store: &ImageStore, name: &str) -> anyhow::Result<Inspected> {
    use std::io::Read as _;
    let image = store.get(name)?.ok_or_else(|| absent(name))?;
    let mut wasm = Vec::new();
    store.open_wasm(&image)?.read_to_end(&mut wasm)?;
    let interfaces: Result<Interfaces, String> = compile::interfaces(&wasm);
    let names = store.list()?.into_iter().filter(|other| other.id == image.id).map(|other| other.name).collect();
    Ok(Inspected {
        names,
        id: image.id.clone(),
        repo_digest: image.repo_digest(),
        size: image.size_bytes,
        wasm: image.wasm.clone(),
        wasm_size: image.wasm_bytes,
        compiled: compile::is_compiled(&FrontConfig::code_dir(root), &image.wasm),
        pinned: store.pinned()?.contains(&image.name),
        manifest: store.describe(&image)?,
        invalid: interfaces.as_ref().err().cloned(),
        interfaces: interfaces.ok(),
    })
}

fn registry_of(name: &str) -> anyhow::Result<String> {
    Ok(coracle_shim_wasm::images::ImageName::parse(name)?.registry().to_owned())
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        assert!(existing(Some(&missing)).unwrap().is_none());
        let error = inspect_all(Some(&missing), &["a".to_owned()], Output::Table).unwrap_err().to_string();
        assert!(error.contains("`coracle image list`"), "{error}");
        assert!(existing(Some(dir.path())).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn credentials_are_for_the_registry_in_the_name() {
        let given = |creds: &str, name| credentials(Some(creds.to_owned()), name).map(|given| format!("{given:?}"));
        assert_eq!(given("me:x", "ghcr.io/team/app:v1").unwrap(), "Password(me) for ghcr.io");
        assert_eq!(given("me:x", "hello").unwrap(), "Password(me) for docker.io");
        assert_eq!(given("me", "hello").unwrap_err().to_string(), "--creds is USER:PASSWORD");
        assert_eq!(credentials(None, "hello").unwrap(), Credentials::Anonymous);
    }

    #[test]
    fn who_is_refused_is_told_how_to_log_in() {
        let (name, why) = ("a".to_owned(), "refused".to_owned());
        let error = with_cure(ImageError::Unauthorized { verb: "push", name, why });
        assert_eq!(error.to_string(), "failed to push image \"a\": refused; log in with --creds USER:PASSWORD");
    }

    #[test]
    fn an_image_is_shown_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hello.wasm");
        std::fs::write(&file, include_bytes!("../../examples/hello/hello.wasm")).unwrap();
        let store = ImageStore::open(FrontConfig::image_dir(dir.path())).unwrap();
        import(&store, &file, None).unwrap();
        store.tag("hello:dev", "localhost:5000/a/b:v1").unwrap();
        let table = image_table::list(&store.list().unwrap(), Output::Table).unwrap();
        let id = store.get("hello:dev").unwrap().unwrap().id;
        let (id, whole) = (id.hex()[..13].to_owned(), id.to_string());
        let expected = format!(
            "IMAGE                     TAG   IMAGE ID        SIZE\n\
             docker.io/library/hello   dev   {id}   96.7kB\n\
             localhost:5000/a/b        v1    {id}   96.7kB\n"
        );
        assert_eq!(table, expected);
        let shown = inspect_all(Some(dir.path()), &["hello:dev".to_owned()], Output::Table).unwrap();
        for part in [
            "Name:        docker.io/library/hello:dev\n             localhost:5000/a/b:v1\n",
            &format!("Digest:      {whole}\n"),
            "Kind:        http component, WASI 0.2",
            "Compiled:    no\n",
            "Layers:      application/wasm sha256:",
            "wasi:http/incoming-handler@0.2",
        ] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        let json = inspect_all(Some(dir.path()), &[whole], Output::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[0]["manifest"]["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(json[0]["interfaces"]["kind"], "http component");
    }
}
