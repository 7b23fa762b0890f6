//! What guests may leave in the host's memory by HTTP: header fields, methods, paths. wasmtime bounds each object, or
//! not, and the table bounds their number; the product would still be gigabytes. So the more objects a container's
//! instances hold, the less may be in each.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types as http2;
use wasmtime_wasi_http::p3::bindings::http::types as http3;
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

use super::guest::Instance;

/// About what all objects of a container together may hold; a few times this, because it is shared out as they come.
const TOTAL_BYTES: usize = 32 << 20;
/// In one object, at most and at least.
const MOST_BYTES: usize = 128 << 10;
const LEAST_BYTES: usize = 128;
/// What the first objects of an instance may hold at least, however many instances there are: no sane guest has more.
const FIRST_BYTES: usize = 16 << 10;
const FIRST: usize = 64;
/// An instance with fewer objects counts as having so many.
const OBJECTS: usize = 16;
/// The longest registered method has 17 letters.
const METHOD_BYTES: usize = 256;
const AUTHORITY_BYTES: usize = 1024;

/// What one object may hold of an instance that has so many, beside other instances.
pub(super) fn each(objects: usize, instances: usize) -> usize {
    let sharers = objects.max(OBJECTS).saturating_mul(instances.max(1));
    let least = if objects <= FIRST { FIRST_BYTES } else { LEAST_BYTES };
    (TOTAL_BYTES / sharers).clamp(least, MOST_BYTES)
}

/// As wasmtime counts it: with about what it takes to keep them.
fn size(fields: &FieldMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + size_of::<(http::HeaderName, usize)>()).sum()
}

fn check_copy(instance: &mut Instance, fields: &Resource<FieldMap>) -> wasmtime::Result<()> {
    let most = instance.bytes_of_each();
    let bytes = size(instance.http().table.get(fields)?);
    wasmtime::ensure!(
        bytes <= most,
        "a copy of {bytes} bytes of header fields exceeds limit {most} of this guest, which holds many objects already"
    );
    Ok(())
}

fn fits(text: &Option<String>, most: usize) -> bool {
    text.as_ref().is_none_or(|text| text.len() <= most)
}

type Told = wasmtime::Result<(Result<(), ()>,)>;

/// For components of WASI 0.2. Must come after wasmtime's own; the version is wasmtime's.
pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    use http2::{HostFields, HostOutgoingRequest, Method, OutgoingRequest};
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]fields.clone",
        |mut store: StoreContextMut<'_, Instance>, (fields,): (Resource<FieldMap>,)| {
            check_copy(store.data_mut(), &fields)?;
            Ok((HostFields::clone(&mut store.data_mut().http(), fields)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, Instance>, (request, method): (Resource<OutgoingRequest>, Method)| -> Told {
            match method {
                Method::Other(name) if name.len() > METHOD_BYTES => Ok((Err(()),)),
                method => Ok((HostOutgoingRequest::set_method(&mut store.data_mut().http(), request, method)?,)),
            }
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, Instance>,
         (request, name): (Resource<OutgoingRequest>, Option<String>)|
         -> Told {
            if !fits(&name, AUTHORITY_BYTES) {
                return Ok((Err(()),));
            }
            Ok((HostOutgoingRequest::set_authority(&mut store.data_mut().http(), request, name)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: StoreContextMut<'_, Instance>,
         (request, path): (Resource<OutgoingRequest>, Option<String>)|
         -> Told {
            if !fits(&path, store.data_mut().bytes_of_each()) {
                return Ok((Err(()),));
            }
            Ok((HostOutgoingRequest::set_path_with_query(&mut store.data_mut().http(), request, path)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The same for those of 0.3.
pub(super) fn add_to_linker3(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    use http3::{HostFields, HostRequest, Method, Request};
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.3.0")?;
    types.func_wrap(
        "[method]fields.clone",
        |mut store: StoreContextMut<'_, Instance>, (fields,): (Resource<FieldMap>,)| {
            check_copy(store.data_mut(), &fields)?;
            Ok((HostFields::clone(&mut store.data_mut().http(), fields)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-method",
        |mut store: StoreContextMut<'_, Instance>, (request, method): (Resource<Request>, Method)| -> Told {
            match method {
                Method::Other(name) if name.len() > METHOD_BYTES => Ok((Err(()),)),
                method => Ok((HostRequest::set_method(&mut store.data_mut().http(), request, method)?,)),
            }
        },
    )?;
    types.func_wrap(
        "[method]request.set-authority",
        |mut store: StoreContextMut<'_, Instance>, (request, name): (Resource<Request>, Option<String>)| -> Told {
            if !fits(&name, AUTHORITY_BYTES) {
                return Ok((Err(()),));
            }
            Ok((HostRequest::set_authority(&mut store.data_mut().http(), request, name)?,))
        },
    )?;
    types.func_wrap(
        "[method]request.set-path-with-query",
        |mut store: StoreContextMut<'_, Instance>, (request, path): (Resource<Request>, Option<String>)| -> Told {
            if !fits(&path, store.data_mut().bytes_of_each()) {
                return Ok((Err(()),));
            }
            Ok((HostRequest::set_path_with_query(&mut store.data_mut().http(), request, path)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_is_the_less_fits_into_each() {
        assert_eq!(each(3, 1), MOST_BYTES, "who holds little is not disturbed");
        assert_eq!(each(10, 5000), FIRST_BYTES, "nor is one with many requests");
        // What a guest gets that fills each object as soon as it has it.
        let filled = |objects: usize, instances| (1..=objects).map(|have| each(have, instances)).sum::<usize>();
        for instances in [1, 128] {
            let all = filled(10_000, instances) * instances;
            assert!(all <= 512 << 20, "{instances} instances hold {} MiB", all >> 20);
        }
    }
}
