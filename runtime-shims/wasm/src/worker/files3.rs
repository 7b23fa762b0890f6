//! Counts the files that guests of WASI 0.3 open: as `files` does for those of 0.2.

use std::sync::Arc;

use wasmtime::component::{Access, Accessor, FutureReader, Linker, Resource, ResourceType, StreamReader};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, DirectoryEntry, ErrorCode, HostDescriptor, HostDescriptorWithStore, OpenFlags,
    PathFlags,
};

use super::allowance::{Held, Kind, Refused};
use super::guest::Instance;
use super::held3::until_over;

type Over = FutureReader<Result<(), ErrorCode>>;

/// To be called after wasmtime-wasi's own.
pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:filesystem/types@0.3.0")?;
    types.resource("descriptor", ResourceType::host::<Descriptor>(), |mut store, rep| {
        let instance: &mut Instance = store.data_mut();
        instance.open.remove(&rep);
        HostDescriptor::drop(&mut instance.filesystem(), Resource::new_own(rep))
    })?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |accessor: &Accessor<Instance>, args: (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::pin(open_at(accessor, args))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, Instance>, (file, offset): (Resource<Descriptor>, u64)| {
            let held = held(&store, &file);
            let access = Access::<_, WasiFilesystem>::new(store.as_context_mut(), Instance::filesystem);
            let (stream, over) =
                <WasiFilesystem as HostDescriptorWithStore<Instance>>::read_via_stream(access, file, offset)?;
            Ok(((stream, until_over(store, over, held)?),)) as wasmtime::Result<((StreamReader<u8>, Over),)>
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, Instance>,
         (file, data, offset): (Resource<Descriptor>, StreamReader<u8>, u64)| {
            let held = held(&store, &file);
            let access = Access::<_, WasiFilesystem>::new(store.as_context_mut(), Instance::filesystem);
            let over =
                <WasiFilesystem as HostDescriptorWithStore<Instance>>::write_via_stream(access, file, data, offset)?;
            Ok((until_over(store, over, held)?,)) as wasmtime::Result<(Over,)>
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, Instance>, (file, data): (Resource<Descriptor>, StreamReader<u8>)| {
            let held = held(&store, &file);
            let access = Access::<_, WasiFilesystem>::new(store.as_context_mut(), Instance::filesystem);
            let over = <WasiFilesystem as HostDescriptorWithStore<Instance>>::append_via_stream(access, file, data)?;
            Ok((until_over(store, over, held)?,)) as wasmtime::Result<(Over,)>
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, Instance>, (dir,): (Resource<Descriptor>,)| {
            let held = held(&store, &dir);
            let access = Access::<_, WasiFilesystem>::new(store.as_context_mut(), Instance::filesystem);
            let (stream, over) = <WasiFilesystem as HostDescriptorWithStore<Instance>>::read_directory(access, dir)?;
            Ok(((stream, until_over(store, over, held)?),)) as wasmtime::Result<((StreamReader<DirectoryEntry>, Over),)>
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// None for the mounted directories themselves, which are open anyway.
fn held(store: &StoreContextMut<'_, Instance>, file: &Resource<Descriptor>) -> Option<Arc<Held>> {
    store.data().open.get(&file.rep()).cloned()
}

type Opened = wasmtime::Result<(Result<Resource<Descriptor>, ErrorCode>,)>;

async fn open_at(
    accessor: &Accessor<Instance>,
    (dir, path_flags, path, open_flags, flags): (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags),
) -> Opened {
    let take = || accessor.with(|mut access| access.data_mut().allowance.take(Kind::File));
    let held = match take() {
        Ok(held) => held,
        Err(Refused) => {
            // Streams that the guest has just dropped are gone when something else has run.
            tokio::task::yield_now().await;
            let Ok(held) = take() else { return Ok((Err(ErrorCode::Quota),)) };
            held
        }
    };
    let files = accessor.with_getter::<WasiFilesystem>(Instance::filesystem);
    let opening = <WasiFilesystem as HostDescriptorWithStore<Instance>>::open_at(
        &files, dir, path_flags, path, open_flags, flags,
    );
    match opening.await {
        Ok(opened) => {
            accessor.with(|mut access| access.data_mut().open.insert(opened.rep(), Arc::new(held)));
            Ok((Ok(opened),))
        }
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}
