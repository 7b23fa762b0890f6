//! `wasi:sockets` of WASI 0.3 on the pod's address: as `sockets` is for 0.2. wasmtime-wasi does the work; the functions
//! that take an address, and the look-up of names, are put in place of its own and hand changed addresses on. Sockets are
//! counted, those that were accepted from the moment on in which they are; their bytes are not.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use wasmtime::component::{
    Access, Accessor, FutureReader, Linker, LinkerInstance, Resource, ResourceType, StreamReader,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookupError;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpAddress,
    IpAddressFamily, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::SocketError;
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsView};

use super::allowance::{Held, Kind};
use super::guest::Instance;
use super::held3::until_over;
use super::pod::{NAME_BYTES, NameError, PodNet};

type Over = FutureReader<Result<(), ErrorCode>>;
type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// To be called after wasmtime-wasi's own.
pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    sockets(&mut types)?;
    streams(&mut types)?;
    addresses(&mut types)?;
    let mut names = linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?;
    names.func_wrap_concurrent("resolve-addresses", |accessor: &Accessor<Instance>, (name,): (String,)| {
        Box::pin(async move { Ok((look_up(accessor, &name).await,)) })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What opens and closes a socket.
fn sockets(types: &mut LinkerInstance<'_, Instance>) -> wasmtime::Result<()> {
    types.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, rep| {
        let instance: &mut Instance = store.data_mut();
        // So that one that was accepted and never used is not held for ever.
        drop(instance.of_connection(rep));
        instance.open.remove(&rep);
        HostTcpSocket::drop(&mut instance.sockets(), Resource::new_own(rep))
    })?;
    types.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, rep| {
        let instance: &mut Instance = store.data_mut();
        instance.open.remove(&rep);
        HostUdpSocket::drop(&mut instance.sockets(), Resource::new_own(rep))
    })?;
    types.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, Instance>, (family,): (IpAddressFamily,)| {
            let instance = store.data_mut();
            let Ok(held) = instance.allowance.take(Kind::Socket) else { return Ok((Err(too_many()),)) };
            let made = HostTcpSocket::create(&mut instance.sockets(), family);
            told(made.inspect(|socket| keep(instance, socket.rep(), held)))
        },
    )?;
    types.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: StoreContextMut<'_, Instance>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let instance = store.data_mut();
                let Ok(held) = instance.allowance.take(Kind::Socket) else { return Ok((Err(too_many()),)) };
                let made = HostUdpSocket::create(&mut instance.sockets(), family).await;
                told(made.inspect(|socket| keep(instance, socket.rep(), held)))
            })
        },
    )?;
    Ok(())
}

/// What makes connections and streams of one.
fn streams(types: &mut LinkerInstance<'_, Instance>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]tcp-socket.listen",
        |mut store: StoreContextMut<'_, Instance>, (socket,): (Resource<TcpSocket>,)| {
            Box::new(async move {
                let instance = store.data_mut();
                let same = Resource::new_borrow(socket.rep());
                let unbound = HostTcpSocket::get_local_address(&mut instance.sockets(), same).is_err();
                // The system would take all of the host's addresses.
                if unbound && let Some(address) = instance.net.any_port() {
                    let same = Resource::new_borrow(socket.rep());
                    if let Err(error) = HostTcpSocket::bind(&mut instance.sockets(), same, address.into()).await {
                        return told(Err(error));
                    }
                }
                let access = Access::<_, WasiSockets>::new(store, Instance::sockets);
                told(<WasiSockets as HostTcpSocketWithStore<Instance>>::listen(access, socket).await)
            })
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.send",
        |mut store: StoreContextMut<'_, Instance>, (socket, data): (Resource<TcpSocket>, StreamReader<u8>)| {
            let held = store.data_mut().of_connection(socket.rep());
            let access = Access::<_, WasiSockets>::new(store.as_context_mut(), Instance::sockets);
            let over = <WasiSockets as HostTcpSocketWithStore<Instance>>::send(access, socket, data)?;
            Ok((until_over(store, over, held)?,)) as wasmtime::Result<(Over,)>
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.receive",
        |mut store: StoreContextMut<'_, Instance>, (socket,): (Resource<TcpSocket>,)| {
            let held = store.data_mut().of_connection(socket.rep());
            let access = Access::<_, WasiSockets>::new(store.as_context_mut(), Instance::sockets);
            let (stream, over) = <WasiSockets as HostTcpSocketWithStore<Instance>>::receive(access, socket)?;
            Ok(((stream, until_over(store, over, held)?),)) as wasmtime::Result<((StreamReader<u8>, Over),)>
        },
    )
}

fn keep(instance: &mut Instance, number: u32, held: Held) {
    instance.open.insert(number, Arc::new(held));
}

/// WASI 0.3 has no word for it.
fn too_many() -> ErrorCode {
    ErrorCode::Other(Some("too many open sockets".to_owned()))
}

/// What takes an address.
fn addresses(types: &mut LinkerInstance<'_, Instance>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: StoreContextMut<'_, Instance>, (socket, local): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let instance = store.data_mut();
                let local = moved(instance, local, PodNet::bind_address);
                told(HostTcpSocket::bind(&mut instance.sockets(), socket, local).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<Instance>, (socket, remote): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::pin(connect(accessor, socket, remote))
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: StoreContextMut<'_, Instance>, (socket, local): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let instance = store.data_mut();
                let local = moved(instance, local, PodNet::datagram_bind_address);
                told(HostUdpSocket::bind(&mut instance.sockets(), socket, local).await)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: StoreContextMut<'_, Instance>, (socket, remote): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let instance = store.data_mut();
                let remote = moved(instance, remote, PodNet::remote_address);
                if let Err(error) = bind_datagrams(instance, &socket, remote) {
                    return told(Err(error));
                }
                told(HostUdpSocket::connect(&mut instance.sockets(), socket, remote).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<Instance>,
         (socket, data, remote): (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move {
                let bound = accessor.with(|mut access| {
                    let instance = access.data_mut();
                    let Some(remote) = remote else { return Ok(None) };
                    let remote = moved(instance, remote, PodNet::remote_address);
                    bind_datagrams(instance, &socket, remote).map(|()| Some(remote))
                });
                let remote = match bound {
                    Ok(remote) => remote,
                    Err(error) => return told(Err(error)),
                };
                let sockets = accessor.with_getter::<WasiSockets>(Instance::sockets);
                told(<WasiSockets as HostUdpSocketWithStore<Instance>>::send(&sockets, socket, data, remote).await)
            })
        },
    )?;
    Ok(())
}

/// Binds a socket that is not bound to the pod's address before the system binds it to all of the host's.
fn bind_datagrams(
    instance: &mut Instance,
    socket: &Resource<UdpSocket>,
    remote: IpSocketAddress,
) -> Result<(), SocketError> {
    let same = Resource::new_borrow(socket.rep());
    let unbound = HostUdpSocket::get_local_address(&mut instance.sockets(), same).is_err();
    let Some(source) = instance.net.source_for(remote.into()).filter(|_| unbound) else { return Ok(()) };
    let same = Resource::new_borrow(socket.rep());
    // Its only wait is for the address check, which does not wait.
    let bound = HostUdpSocket::bind(&mut instance.sockets(), same, source.into()).now_or_never();
    bound.unwrap_or_else(|| Err(ErrorCode::InvalidState.into()))
}

async fn connect(accessor: &Accessor<Instance>, socket: Resource<TcpSocket>, remote: IpSocketAddress) -> Outcome<()> {
    let (remote, source) = accessor.with(|mut access| {
        let instance = access.data_mut();
        let remote = moved(instance, remote, PodNet::remote_address);
        let same = Resource::new_borrow(socket.rep());
        let unbound = HostTcpSocket::get_local_address(&mut instance.sockets(), same).is_err();
        (remote, if unbound { instance.net.source_for(remote.into()) } else { None })
    });
    if let Some(source) = source {
        // Its only wait is for the address check, which does not wait.
        let bound = accessor.with(|mut access| {
            let socket = Resource::new_borrow(socket.rep());
            HostTcpSocket::bind(&mut access.data_mut().sockets(), socket, source.into()).now_or_never()
        });
        match bound {
            Some(Ok(())) => {}
            Some(Err(error)) => return told(Err(error)),
            None => return Ok((Err(ErrorCode::InvalidState),)),
        }
    }
    let sockets = accessor.with_getter::<WasiSockets>(Instance::sockets);
    told(<WasiSockets as HostTcpSocketWithStore<Instance>>::connect(&sockets, socket, remote).await)
}

async fn look_up(accessor: &Accessor<Instance>, name: &str) -> Result<Vec<IpAddress>, LookupError> {
    if name.len() > NAME_BYTES {
        return Err(LookupError::InvalidArgument);
    }
    let (net, held) = accessor.with(|mut access| {
        let instance = access.data_mut();
        (instance.net.clone(), instance.allowance.take(Kind::Lookup))
    });
    let Ok(_held) = held else { return Err(LookupError::TemporaryResolverFailure) };
    match net.resolve(name).await {
        Ok(found) => Ok(found.into_iter().map(IpAddress::from).collect()),
        Err(NameError::Invalid) => Err(LookupError::InvalidArgument),
        Err(NameError::NotFound) => Err(LookupError::NameUnresolvable),
        Err(NameError::Unanswered) => Err(LookupError::TemporaryResolverFailure),
    }
}

fn moved(instance: &Instance, address: IpSocketAddress, how: fn(&PodNet, SocketAddr) -> SocketAddr) -> IpSocketAddress {
    how(&instance.net, address.into()).into()
}

fn told<T>(outcome: Result<T, SocketError>) -> Outcome<T> {
    match outcome {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}
