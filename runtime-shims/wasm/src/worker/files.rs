//! What wasmtime-wasi leaves open: counts the files a guest opens (it does the work; the calls of WASI 0.1 and 0.2 that open
//! and close are wrapped), and lets a guest of 0.1 end with any code.

use std::sync::Arc;

use wasmtime::component::{Linker as ComponentLinker, Resource, ResourceType};
use wasmtime::{AsContextMut, Caller, Extern, Linker, StoreContextMut};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, Host as _, HostDescriptor, OpenFlags, PathFlags,
};
use wiggle::GuestMemory;

use super::allowance::Kind;
use super::directories;
use super::guest::Instance;

const P1: &str = "wasi_snapshot_preview1";
/// "Too many files open", as WASI 0.1 numbers it.
const MFILE: i32 = 33;
const SUCCESS: i32 = 0;

/// Must come after wasmtime-wasi's own.
pub(super) fn add_to_module_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(
        P1,
        "path_open",
        |mut caller: Caller<'_, Instance>, args: (i32, i32, i32, i32, i32, i64, i64, i32, i32)| {
            Box::new(async move {
                let Ok(held) = caller.data().allowance.take(Kind::File) else { return Ok(MFILE) };
                let (dir, lookup, path, length, open, base, inheriting, flags, opened_at) = args;
                let (mut memory, instance) = memory(&mut caller)?;
                let errno = p1::path_open(
                    &mut instance.wasi,
                    &mut memory,
                    dir,
                    lookup,
                    path,
                    length,
                    open,
                    base,
                    inheriting,
                    flags,
                    opened_at,
                )
                .await?;
                if errno == SUCCESS {
                    let at = wiggle::GuestPtr::<u32>::new(opened_at.cast_unsigned());
                    let number = memory.read(at).map_err(wasmtime::Error::new)?;
                    instance.open.insert(number, Arc::new(held));
                }
                Ok::<i32, wasmtime::Error>(errno)
            })
        },
    )?;
    linker.func_wrap_async(P1, "fd_close", |mut caller: Caller<'_, Instance>, (number,): (i32,)| {
        Box::new(async move {
            let (mut memory, instance) = memory(&mut caller)?;
            let errno = p1::fd_close(&mut instance.wasi, &mut memory, number).await?;
            if errno == SUCCESS {
                instance.open.remove(&number.cast_unsigned());
            }
            Ok::<i32, wasmtime::Error>(errno)
        })
    })?;
    linker.func_wrap_async(P1, "fd_renumber", |mut caller: Caller<'_, Instance>, (from, to): (i32, i32)| {
        Box::new(async move {
            let (mut memory, instance) = memory(&mut caller)?;
            let errno = p1::fd_renumber(&mut instance.wasi, &mut memory, from, to).await?;
            if errno == SUCCESS && from != to {
                // What was at `to` is closed.
                instance.open.remove(&to.cast_unsigned());
                if let Some(held) = instance.open.remove(&from.cast_unsigned()) {
                    instance.open.insert(to.cast_unsigned(), held);
                }
            }
            Ok::<i32, wasmtime::Error>(errno)
        })
    })?;
    // wasmtime-wasi takes codes from 126 on for a failure of the call; to a process they are codes like others, of which
    // the parent is told the last byte.
    linker.func_wrap(P1, "proc_exit", |code: i32| Err::<(), _>(wasmtime::Error::from(I32Exit(code & 0xff))))?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The guest's memory as the calls of WASI 0.1 take it.
fn memory<'a>(caller: &'a mut Caller<'_, Instance>) -> wasmtime::Result<(GuestMemory<'a>, &'a mut Instance)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => {
            let (bytes, instance) = memory.data_and_store_mut(caller);
            // What one call may copy; it is used up by each call and so given anew.
            p1::WasiSnapshotPreview1::set_hostcall_fuel(&mut instance.wasi, fuel);
            Ok((GuestMemory::Unshared(bytes), instance))
        }
        Some(_) | None => Err(wasmtime::format_err!("missing required memory export")),
    }
}

/// The version is wasmtime-wasi's own: only under the same name does this take the place of what is there.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

/// Must come after wasmtime-wasi's own.
pub(super) fn add_to_component_linker(linker: &mut ComponentLinker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, rep| {
        let instance: &mut Instance = store.data_mut();
        instance.open.remove(&rep);
        HostDescriptor::drop(&mut instance.filesystem(), Resource::new_own(rep))
    })?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, Instance>,
         (dir, path_flags, path, open_flags, flags): (
            Resource<Descriptor>,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::new(async move {
                let instance = store.data_mut();
                // WASI 0.2 has no word for "too many files".
                let Ok(held) = instance.allowance.take(Kind::File) else { return Ok((Err(ErrorCode::Quota),)) };
                let mut files = instance.filesystem();
                match HostDescriptor::open_at(&mut files, dir, path_flags, path, open_flags, flags).await {
                    Ok(opened) => {
                        instance.open.insert(opened.rep(), Arc::new(held));
                        Ok((Ok(opened),))
                    }
                    Err(error) => Ok((Err(code(instance, error)?),)),
                }
            })
        },
    )?;
    directories::add_to(&mut types)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn code(instance: &mut Instance, error: FsError) -> wasmtime::Result<ErrorCode> {
    instance.filesystem().convert_error_code(error)
}
