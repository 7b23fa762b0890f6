//! `wasi:sockets` on the pod's address. wasmtime-wasi does the work; addresses are changed on their way in, names are
//! looked up in the cluster, sockets and bytes are counted.

mod datagrams;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, HostTcpSocket, ShutdownType};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp, udp_create_socket};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, IoError, Network, Pollable, SocketError, SocketResult, TcpSocket,
    UdpSocket, subscribe,
};
use wasmtime_wasi::sockets::{WasiSocketsCtxView, WasiSocketsView};

use super::allowance::{Allowance, Held, Kind, Refused};
use super::guest::Instance;
use super::pod::{NAME_BYTES, NameError, PodNet};
use super::traffic::{CountedInput, CountedOutput, Nothing, Traffic};
pub(super) use datagrams::Undecided;

/// Puts the pod's sockets in place of those of the host.
pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    tcp::add_to_linker::<Instance, PodSockets>(linker, PodSocketsView::of)?;
    udp::add_to_linker::<Instance, PodSockets>(linker, PodSocketsView::of)?;
    tcp_create_socket::add_to_linker::<Instance, PodSockets>(linker, PodSocketsView::of)?;
    udp_create_socket::add_to_linker::<Instance, PodSockets>(linker, PodSocketsView::of)?;
    names(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

struct PodSockets;

impl HasData for PodSockets {
    type Data<'a> = PodSocketsView<'a>;
}

struct PodSocketsView<'a> {
    host: WasiSocketsCtxView<'a>,
    net: Arc<PodNet>,
    traffic: Arc<Traffic>,
    allowance: Arc<Allowance>,
    /// What is counted, by its number in the table.
    open: &'a mut HashMap<u32, Arc<Held>>,
    undecided: &'a mut Undecided,
    accepted: Option<Arc<Mutex<Vec<Held>>>>,
}

impl PodSocketsView<'_> {
    fn of(instance: &mut Instance) -> PodSocketsView<'_> {
        let (net, traffic, allowance) = (instance.net.clone(), instance.traffic.clone(), instance.allowance.clone());
        let accepted = instance.accepted.clone();
        let (open, undecided) = (&mut instance.open, &mut instance.undecided);
        PodSocketsView { host: instance.wasi.sockets(), net, traffic, allowance, open, undecided, accepted }
    }

    fn one_more(&self) -> Result<Held, ErrorCode> {
        self.allowance.take(Kind::Socket).map_err(|Refused| ErrorCode::NewSocketLimit)
    }

    /// From here on the bytes of a connection are counted.
    fn count(
        &mut self,
        input: &Resource<DynInputStream>,
        output: &Resource<DynOutputStream>,
    ) -> Result<(), wasmtime::component::ResourceTableError> {
        let slot = self.host.table.get_mut(input)?;
        let bare = std::mem::replace(slot, Box::new(Nothing));
        *slot = CountedInput::around(bare, self.traffic.clone());
        let slot = self.host.table.get_mut(output)?;
        let bare = std::mem::replace(slot, Box::new(Nothing));
        *slot = CountedOutput::around(bare, self.traffic.clone());
        Ok(())
    }

    fn moved(
        &self,
        address: IpSocketAddress,
        how: fn(&PodNet, std::net::SocketAddr) -> std::net::SocketAddr,
    ) -> IpSocketAddress {
        how(&self.net, address.into()).into()
    }
}

fn same<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

impl network::Host for PodSocketsView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.host, error)
    }

    fn network_error_code(&mut self, error: Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.host, error)
    }
}

impl network::HostNetwork for PodSocketsView<'_> {
    fn drop(&mut self, this: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.host, this)
    }
}

impl tcp_create_socket::Host for PodSocketsView<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let held = self.one_more()?;
        let socket = tcp_create_socket::Host::create_tcp_socket(&mut self.host, family)?;
        self.open.insert(socket.rep(), Arc::new(held));
        Ok(socket)
    }
}

impl udp_create_socket::Host for PodSocketsView<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let held = self.one_more()?;
        let socket = udp_create_socket::Host::create_udp_socket(&mut self.host, family).await?;
        self.open.insert(socket.rep(), Arc::new(held));
        Ok(socket)
    }
}

impl tcp::Host for PodSocketsView<'_> {}

impl HostTcpSocket for PodSocketsView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        let local = self.moved(local, PodNet::bind_address);
        HostTcpSocket::start_bind(&mut self.host, this, network, local).await
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        HostTcpSocket::finish_bind(&mut self.host, this)
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let remote = self.moved(remote, PodNet::remote_address);
        let unbound = HostTcpSocket::local_address(&mut self.host, same(&this)).is_err();
        if unbound && let Some(source) = self.net.source_for(remote.into()) {
            // The bind's only wait is for the address check, which does not wait.
            HostTcpSocket::start_bind(&mut self.host, same(&this), same(&network), source.into())
                .now_or_never()
                .ok_or(ErrorCode::WouldBlock)??;
            HostTcpSocket::finish_bind(&mut self.host, same(&this))?;
        }
        HostTcpSocket::start_connect(&mut self.host, this, network, remote)
    }

    fn finish_connect(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let (input, output) = HostTcpSocket::finish_connect(&mut self.host, this)?;
        self.count(&input, &output)?;
        Ok((input, output))
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        HostTcpSocket::start_listen(&mut self.host, this).await
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        HostTcpSocket::finish_listen(&mut self.host, this)
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        // Before it is accepted: refused, the connection waits in the kernel until the guest has closed others.
        let held = if self.accepted.is_none() { Some(self.one_more()?) } else { None };
        let (socket, input, output) = HostTcpSocket::accept(&mut self.host, this)?;
        // Or when it was.
        let earlier = || self.accepted.as_ref().and_then(|accepted| accepted.lock().pop());
        let Some(held) = held.or_else(earlier) else { return Err(ErrorCode::NewSocketLimit.into()) };
        self.open.insert(socket.rep(), Arc::new(held));
        self.count(&input, &output)?;
        Ok((socket, input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        HostTcpSocket::local_address(&mut self.host, this)
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        HostTcpSocket::remote_address(&mut self.host, this)
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        HostTcpSocket::is_listening(&mut self.host, this)
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        HostTcpSocket::address_family(&mut self.host, this)
    }

    fn set_listen_backlog_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        HostTcpSocket::set_listen_backlog_size(&mut self.host, this, value)
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        HostTcpSocket::keep_alive_enabled(&mut self.host, this)
    }

    fn set_keep_alive_enabled(&mut self, this: Resource<TcpSocket>, value: bool) -> SocketResult<()> {
        HostTcpSocket::set_keep_alive_enabled(&mut self.host, this, value)
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        HostTcpSocket::keep_alive_idle_time(&mut self.host, this)
    }

    fn set_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        HostTcpSocket::set_keep_alive_idle_time(&mut self.host, this, value)
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        HostTcpSocket::keep_alive_interval(&mut self.host, this)
    }

    fn set_keep_alive_interval(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        HostTcpSocket::set_keep_alive_interval(&mut self.host, this, value)
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        HostTcpSocket::keep_alive_count(&mut self.host, this)
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        HostTcpSocket::set_keep_alive_count(&mut self.host, this, value)
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        HostTcpSocket::hop_limit(&mut self.host, this)
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        HostTcpSocket::set_hop_limit(&mut self.host, this, value)
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        HostTcpSocket::receive_buffer_size(&mut self.host, this)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        HostTcpSocket::set_receive_buffer_size(&mut self.host, this, value)
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        HostTcpSocket::send_buffer_size(&mut self.host, this)
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        HostTcpSocket::set_send_buffer_size(&mut self.host, this, value)
    }

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        HostTcpSocket::subscribe(&mut self.host, this)
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        HostTcpSocket::shutdown(&mut self.host, this, how)
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.open.remove(&this.rep());
        HostTcpSocket::drop(&mut self.host, this)
    }
}

/// A look-up that is under way, or its answer. wasmtime-wasi's own cannot be made outside of it.
struct Lookup(Answer);

enum Answer {
    Pending(futures::future::BoxFuture<'static, Result<Vec<std::net::IpAddr>, NameError>>),
    Ready(Result<std::vec::IntoIter<std::net::IpAddr>, NameError>),
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Answer::Pending(pending) = &mut self.0 {
            let found = pending.await;
            self.0 = Answer::Ready(found.map(Vec::into_iter));
        }
    }
}

impl From<NameError> for ErrorCode {
    fn from(error: NameError) -> ErrorCode {
        match error {
            NameError::Invalid => ErrorCode::InvalidArgument,
            NameError::NotFound => ErrorCode::NameUnresolvable,
            NameError::Unanswered => ErrorCode::TemporaryResolverFailure,
        }
    }
}

/// The version is wasmtime-wasi's own: only under the same name does this take the place of what is there.
const IP_NAME_LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// `wasi:sockets/ip-name-lookup`, by hand.
fn names(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    let mut names = linker.instance(IP_NAME_LOOKUP)?;
    names.resource(
        "resolve-address-stream",
        wasmtime::component::ResourceType::host::<Lookup>(),
        |mut store, rep| {
            table(store.data_mut()).delete(Resource::<Lookup>::new_own(rep))?;
            Ok(())
        },
    )?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: wasmtime::StoreContextMut<'_, Instance>, (_network, name): (Resource<Network>, String)| {
            // It is kept until the look-up is made, and no name is longer.
            if name.len() > NAME_BYTES {
                return Ok((Err(ErrorCode::InvalidArgument),));
            }
            let net = store.data().net.clone();
            let Ok(held) = store.data().allowance.take(Kind::Lookup) else {
                return Ok((Err(ErrorCode::TemporaryResolverFailure),));
            };
            let pending = async move {
                let found = net.resolve(&name).await;
                drop(held);
                found
            };
            let pending = pending.boxed();
            let lookup = table(store.data_mut()).push(Lookup(Answer::Pending(pending)))?;
            Ok((Ok::<_, ErrorCode>(lookup),))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: wasmtime::StoreContextMut<'_, Instance>, (this,): (Resource<Lookup>,)| {
            let lookup = table(store.data_mut()).get_mut(&this)?;
            if let Answer::Pending(pending) = &mut lookup.0
                && let Some(found) = pending.now_or_never()
            {
                lookup.0 = Answer::Ready(found.map(Vec::into_iter));
            }
            let next: Result<Option<IpAddress>, ErrorCode> = match &mut lookup.0 {
                Answer::Pending(_) => Err(ErrorCode::WouldBlock),
                Answer::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
                Answer::Ready(Err(error)) => Err((*error).into()),
            };
            Ok((next,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: wasmtime::StoreContextMut<'_, Instance>, (this,): (Resource<Lookup>,)| {
            Ok((subscribe(table(store.data_mut()), this)?,))
        },
    )?;
    Ok(())
}

fn table(instance: &mut Instance) -> &mut ResourceTable {
    instance.ctx().table
}
