//! `wasi:sockets` of WASI 0.3 on the pod's address: as `sockets` is for 0.2. wasmtime-wasi does the work; the functions
//! that take an address, and the look-up of names, are put in place of its own and hand changed addresses on.

use std::net::SocketAddr;

use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookupError;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpAddress, IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::SocketError;
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsView};

use super::guest::Instance;
use super::pod::{NameError, PodNet};

type Outcome<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// To be called after wasmtime-wasi's own.
pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
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
                let local = moved(instance, local, PodNet::bind_address);
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
                told(HostUdpSocket::connect(&mut instance.sockets(), socket, remote).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<Instance>,
         (socket, data, remote): (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move {
                let remote = accessor
                    .with(|mut access| remote.map(|remote| moved(access.data_mut(), remote, PodNet::remote_address)));
                let sockets = accessor.with_getter::<WasiSockets>(Instance::sockets);
                told(<WasiSockets as HostUdpSocketWithStore<Instance>>::send(&sockets, socket, data, remote).await)
            })
        },
    )?;
    let mut names = linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?;
    names.func_wrap_concurrent("resolve-addresses", |accessor: &Accessor<Instance>, (name,): (String,)| {
        Box::pin(async move { Ok((look_up(accessor, &name).await,)) })
    })?;
    linker.allow_shadowing(false);
    Ok(())
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
            use futures::FutureExt;
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
    let net = accessor.with(|mut access| access.data_mut().net.clone());
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
