//! Machine code that comes with an image, and how it is made. It is compiled for any processor of this architecture, so
//! that one image serves many machines; what is compiled here is for this one, and may be faster.

use std::io::{self, Read, Seek};
use std::process::Stdio;
use std::sync::Arc;

use super::{Answer, CompileError, Compiled, Compiler, Facts, Inner, NEW, Reexec, Task, TaskLimits, on_disk};
use crate::engine::Profile;
use crate::images::{ConfigFile, Image, ImageStore, MachineCode};

impl Compiler {
    /// The settings under which machine code travels to this machine.
    pub(crate) async fn portable(&self) -> Result<&str, CompileError> {
        self.0.portable.get_or_try_init(|| self.0.ask_settings(true)).await.map(String::as_str)
    }
}

impl Inner {
    /// The machine code in the image, if there is some for this machine that is trusted. Whatever is wrong with it only
    /// means that it is made here.
    pub(super) async fn travelled(
        self: &Arc<Inner>,
        settings: &str,
        store: &ImageStore,
        image: &Image,
    ) -> Option<Compiled> {
        if !store.has_machine_code(image) {
            return None;
        }
        match self.try_travelled(settings, store, image).await {
            Ok(compiled) => compiled,
            Err(error) => {
                tracing::warn!(image = image.name, %error, "the machine code in the image cannot be used; it is compiled here");
                None
            }
        }
    }

    async fn try_travelled(
        self: &Arc<Inner>,
        settings: &str,
        store: &ImageStore,
        image: &Image,
    ) -> Result<Option<Compiled>, CompileError> {
        let engine = self.portable.get_or_try_init(|| self.ask_settings(true)).await?.clone();
        let (inner, settings) = (self.clone(), settings.to_owned());
        let (store, image) = (store.clone(), image.clone());
        on_disk(move || inner.copy(&settings, &store, &image, &engine)).await
    }

    /// Waits for the disk.
    fn copy(
        &self,
        settings: &str,
        store: &ImageStore,
        image: &Image,
        engine: &str,
    ) -> Result<Option<Compiled>, CompileError> {
        let found = store.machine_code(image, engine, &self.policy);
        let Some((mut code, kind)) = found.map_err(|error| CompileError::Failed(error.to_string()))? else {
            return Ok(None);
        };
        let facts = Facts::named(&kind).ok_or_else(|| {
            CompileError::Failed(format!("the kind of its machine code, {kind:?}, is not known here"))
        })?;
        let dir = self.code.join(settings);
        let failed = |error: io::Error| CompileError::io("copying machine code", &error);
        let mut copy = tempfile::Builder::new().prefix(NEW).tempfile_in(dir).map_err(failed)?;
        io::copy(&mut code, copy.as_file_mut()).map_err(failed)?;
        tracing::info!(image = image.name, "the machine code in the image is signed by a trusted key, and used");
        self.keep(settings, image, facts, Some(engine.to_owned()), copy).map(Some)
    }

    /// Is what came with the image for `engine` still signed by a key that is trusted?
    pub(super) fn is_trusted(&self, store: &ImageStore, image: &Image, engine: &str) -> bool {
        match store.machine_code(image, engine, &self.policy) {
            Ok(found) => found.is_some(),
            Err(error) => {
                tracing::warn!(image = image.name, %error, "the machine code that came with the image is not used any more");
                false
            }
        }
    }
}

/// Makes the machine code that travels with an image: for this architecture, with and without a large address space.
pub async fn precompile(store: &ImageStore, image: &Image, compiler: Reexec) -> Result<Vec<MachineCode>, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let mut made = Vec::new();
    for profile in [Profile::Roomy, Profile::Tight] {
        let code = dir.path().to_path_buf();
        let limits = TaskLimits::default();
        let compiler = Compiler::new(code, compiler.clone(), profile, limits, u64::MAX, ConfigFile::none())
            .map_err(|error| error.to_string())?;
        made.push(one(&compiler, store, image).await.map_err(|error| error.to_string())?);
    }
    Ok(made)
}

/// What machine code must be made for to be of use on this machine.
pub async fn portable_engine(compiler: Reexec) -> Result<String, String> {
    let dir = tempfile::tempdir().map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let (code, limits) = (dir.path().to_path_buf(), TaskLimits::default());
    let compiler = Compiler::new(code, compiler, Profile::probe(), limits, u64::MAX, ConfigFile::none());
    let compiler = compiler.map_err(|error| error.to_string())?;
    compiler.portable().await.map(str::to_owned).map_err(|error| error.to_string())
}

async fn one(compiler: &Compiler, store: &ImageStore, image: &Image) -> Result<MachineCode, CompileError> {
    let inner = &compiler.0;
    let engine = compiler.portable().await?.to_owned();
    let wasm = store.open_wasm(image).map_err(|error| CompileError::Failed(error.to_string()))?;
    let failed = |error: io::Error| CompileError::io("keeping machine code", &error);
    let mut output = tempfile::tempfile_in(&inner.code).map_err(failed)?;
    let task = Task { profile: inner.profile, portable: true, limits: Some(inner.limits) };
    let stdout = Stdio::from(output.try_clone().map_err(failed)?);
    let ended = inner.child(&task, Stdio::from(wasm), stdout).await?;
    let facts = match ended.answer {
        Some(Answer::Compiled(facts)) => facts,
        Some(Answer::Refused(why)) => return Err(CompileError::Refused { image: image.name.clone(), why }),
        Some(Answer::Settings(_)) => return Err(ended.unexplained()),
        None => return Err(ended.limit(&image.name, inner.limits)),
    };
    let mut content = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut content)).map_err(failed)?;
    let kind = facts.name();
    Ok(MachineCode { architecture: std::env::consts::ARCH.to_owned(), engine, kind, content })
}
