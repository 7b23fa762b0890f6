//! Machine code in this process: loaded when the first container of an image starts, shared by all of them, let go with
//! the last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use wasmtime::component::{Component, Linker as ComponentLinker};
use wasmtime::{Engine, InstancePre, Linker, Module};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::guest::Instance;
use super::{config, files, files3, host_memory, keyvalue, sockets, sockets3};
use crate::compile::GuestKind;
use crate::engine::Profile;

/// Code with its imports resolved, ready to be instantiated.
pub(super) enum Code {
    Module(InstancePre<Instance>),
    Command(CommandPre<Instance>),
    Http(Arc<HttpCode>),
    Command3(p3::bindings::CommandPre<Instance>),
    Http3(ServicePre<Instance>),
}

/// The same component, once for each way to make an instance of it.
pub(super) struct HttpCode {
    /// None: it has more memories, tables or instances in it than the pool has room for in one.
    pub(super) pooled: Option<ProxyPre<Instance>>,
    beside: OnceLock<ProxyPre<Instance>>,
}

pub(super) struct Loader {
    pub(super) commands: Engine,
    pub(super) requests: Engine,
    pub(super) concurrent: Engine,
    modules: OnceLock<Linker<Instance>>,
    components: OnceLock<ComponentLinker<Instance>>,
    http: OnceLock<ComponentLinker<Instance>>,
    concurrents: OnceLock<ComponentLinker<Instance>>,
    loaded: Mutex<HashMap<PathBuf, Weak<Code>>>,
    /// Held by who reads what it may be that another has read meanwhile.
    reading: Mutex<()>,
}

impl Loader {
    /// The directory of machine code must be the working directory.
    pub(super) fn new(profile: Profile) -> wasmtime::Result<Loader> {
        Ok(Loader {
            commands: profile.commands()?,
            requests: profile.requests()?,
            concurrent: profile.concurrent()?,
            modules: OnceLock::new(),
            components: OnceLock::new(),
            http: OnceLock::new(),
            concurrents: OnceLock::new(),
            loaded: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    /// The engine that commands are run by, and that `code` was loaded by if it is one.
    pub(super) fn engine_of(&self, code: &Code) -> &Engine {
        match code {
            Code::Module(_) | Code::Command(_) | Code::Http(_) => &self.commands,
            Code::Command3(_) | Code::Http3(_) => &self.concurrent,
        }
    }

    /// Loads the code at `path`, below the directory of machine code, or shares what is loaded.
    pub(super) fn load(&self, kind: GuestKind, path: &Path) -> wasmtime::Result<Arc<Code>> {
        let mut loaded = self.loaded.lock();
        if let Some(code) = loaded.get(path).and_then(Weak::upgrade) {
            return Ok(code);
        }
        let code = Arc::new(self.read(kind, path)?);
        loaded.retain(|_, code| code.strong_count() > 0);
        loaded.insert(path.to_owned(), Arc::downgrade(&code));
        Ok(code)
    }

    /// The code at `path` as a program to be run to its end, though it be one that serves.
    pub(super) fn program(&self, kind: GuestKind, path: &Path) -> wasmtime::Result<Arc<Code>> {
        let command = match kind {
            GuestKind::Module | GuestKind::Command | GuestKind::Command3 => return self.load(kind, path),
            GuestKind::Http => GuestKind::Command,
            GuestKind::Http3 => GuestKind::Command3,
        };
        self.read(command, path).map(Arc::new).map_err(|error| {
            wasmtime::format_err!(
                "it serves HTTP and is no command: it does not export wasi:cli/run ({})",
                error.root_cause()
            )
        })
    }

    /// The HTTP component `code` at `path`, for instances that are not of the pool.
    pub(super) fn beside_pool<'a>(&self, code: &'a HttpCode, path: &Path) -> wasmtime::Result<&'a ProxyPre<Instance>> {
        if let Some(beside) = code.beside.get() {
            return Ok(beside);
        }
        let _reading = self.reading.lock();
        let beside = match code.beside.get() {
            None => self.read_beside(path)?,
            Some(made_meanwhile) => return Ok(made_meanwhile),
        };
        Ok(code.beside.get_or_init(|| beside))
    }

    #[allow(unsafe_code)]
    fn read_beside(&self, path: &Path) -> wasmtime::Result<ProxyPre<Instance>> {
        // SAFETY: as below.
        let component = unsafe { Component::deserialize_file(&self.commands, path)? };
        let linker = component_linker(&self.components, &self.commands)?;
        ProxyPre::new(linker.instantiate_pre(&component)?)
    }

    #[allow(unsafe_code)]
    fn read_pooled(&self, path: &Path) -> wasmtime::Result<ProxyPre<Instance>> {
        // SAFETY: as below.
        let component = unsafe { Component::deserialize_file(&self.requests, path)? };
        let linker = component_linker(&self.http, &self.requests)?;
        ProxyPre::new(linker.instantiate_pre(&component)?)
    }

    #[allow(unsafe_code)]
    fn read(&self, kind: GuestKind, path: &Path) -> wasmtime::Result<Code> {
        match kind {
            GuestKind::Module => {
                // SAFETY: only the compiler process and the front write to this directory; the front checked that the
                // file is whole, and nobody changes it while it is mapped: it is replaced by rename.
                let module = unsafe { Module::deserialize_file(&self.commands, path)? };
                Ok(Code::Module(self.module_linker()?.instantiate_pre(&module)?))
            }
            GuestKind::Command => {
                // SAFETY: as above.
                let component = unsafe { Component::deserialize_file(&self.commands, path)? };
                let linker = component_linker(&self.components, &self.commands)?;
                Ok(Code::Command(CommandPre::new(linker.instantiate_pre(&component)?)?))
            }
            GuestKind::Http => {
                let code = match self.read_pooled(path) {
                    Ok(pooled) => HttpCode { pooled: Some(pooled), beside: OnceLock::new() },
                    // What is wrong with it besides is wrong beside the pool too.
                    Err(error) => match self.read_beside(path) {
                        Ok(beside) => HttpCode { pooled: None, beside: beside.into() },
                        Err(_) => return Err(error),
                    },
                };
                Ok(Code::Http(Arc::new(code)))
            }
            GuestKind::Command3 | GuestKind::Http3 => {
                // SAFETY: as above.
                let component = unsafe { Component::deserialize_file(&self.concurrent, path)? };
                let pre = self.concurrent_linker()?.instantiate_pre(&component)?;
                Ok(match kind {
                    GuestKind::Http3 => Code::Http3(ServicePre::new(pre)?),
                    GuestKind::Module | GuestKind::Command | GuestKind::Http | GuestKind::Command3 => {
                        Code::Command3(p3::bindings::CommandPre::new(pre)?)
                    }
                })
            }
        }
    }

    /// Components of 0.3 import interfaces of 0.2 too: their language's library may not have moved.
    fn concurrent_linker(&self) -> wasmtime::Result<&ComponentLinker<Instance>> {
        if let Some(linker) = self.concurrents.get() {
            return Ok(linker);
        }
        let mut linker = new_component_linker(&self.concurrent)?;
        p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        host_memory::add_to_linker3(&mut linker)?;
        sockets3::add_to_linker(&mut linker)?;
        files3::add_to_linker(&mut linker)?;
        Ok(self.concurrents.get_or_init(|| linker))
    }

    fn module_linker(&self) -> wasmtime::Result<&Linker<Instance>> {
        if let Some(linker) = self.modules.get() {
            return Ok(linker);
        }
        let mut linker = Linker::new(&self.commands);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, |instance: &mut Instance| &mut instance.wasi)?;
        files::add_to_module_linker(&mut linker)?;
        Ok(self.modules.get_or_init(|| linker))
    }
}

fn component_linker<'a>(
    slot: &'a OnceLock<ComponentLinker<Instance>>,
    engine: &Engine,
) -> wasmtime::Result<&'a ComponentLinker<Instance>> {
    if let Some(linker) = slot.get() {
        return Ok(linker);
    }
    let linker = new_component_linker(engine)?;
    Ok(slot.get_or_init(|| linker))
}

fn new_component_linker(engine: &Engine) -> wasmtime::Result<ComponentLinker<Instance>> {
    let mut linker = ComponentLinker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    sockets::add_to_linker(&mut linker)?;
    files::add_to_component_linker(&mut linker)?;
    config::add_to_linker(&mut linker)?;
    host_memory::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    Ok(linker)
}
