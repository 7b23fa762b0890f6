//! Datagrams. A socket on no address in particular sends from the pod's, so that others can answer it. A loopback address
//! reaches nothing outside, and a socket cannot move: of a pod that has one, a socket on any port has a twin on the pod's
//! address until it is known whom it sends to, and becomes that twin if those are in the pods' network.
//!
//! ```text
//! undecided ──▶ the twin     by a connection or the first datagram to a loopback address; the port becomes another
//!     └───────▶ itself       by one to elsewhere, or when somebody has sent it something
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use wasmtime::component::{Resource, ResourceTableError};
use wasmtime_wasi::p2::bindings::sockets::instance_network;
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynPollable, Network, SocketError, SocketResult, UdpSocket};

use super::{PodNet, PodSocketsView, same};
use crate::worker::allowance::Held;

/// Sockets that may still become their twins, by the number of the stream they send with.
#[derive(Default)]
pub(in crate::worker) struct Undecided(HashMap<u32, Twin>);

struct Twin {
    /// The numbers of the socket it may take the place of, and of the stream that one receives with.
    of: (u32, u32),
    socket: Resource<UdpSocket>,
    incoming: Resource<IncomingDatagramStream>,
    outgoing: Resource<OutgoingDatagramStream>,
    _held: Held,
}

impl PodSocketsView<'_> {
    /// The pod's address, if the socket is not there and should be to be answered from the pods' network.
    fn other_place(&mut self, this: &Resource<UdpSocket>) -> Option<IpAddr> {
        let local: SocketAddr = HostUdpSocket::local_address(&mut self.host, same(this)).ok()?.into();
        let pod = self.net.any_port()?.ip();
        (local.ip().is_unspecified() && pod.is_loopback() && pod.is_ipv4() == local.is_ipv4()).then_some(pod)
    }

    /// A socket like this one, on the pod's address.
    async fn twin(&mut self, this: &Resource<UdpSocket>, pod: IpAddr) -> SocketResult<Resource<UdpSocket>> {
        let host = &mut self.host;
        let family = HostUdpSocket::address_family(host, same(this)).map_err(SocketError::trap)?;
        let hops = HostUdpSocket::unicast_hop_limit(host, same(this))?;
        let twin = host.create_udp_socket(family).await?;
        let network = instance_network::Host::instance_network(host).map_err(SocketError::trap)?;
        let at = SocketAddr::new(pod, 0).into();
        let bound = HostUdpSocket::start_bind(host, same(&twin), same(&network), at).await;
        host.table.delete(network)?;
        bound?;
        HostUdpSocket::finish_bind(host, same(&twin))?;
        HostUdpSocket::set_unicast_hop_limit(host, same(&twin), hops)?;
        Ok(twin)
    }

    /// The same with streams, for a socket whose own are not there yet.
    async fn streaming_twin(&mut self, this: &Resource<UdpSocket>, pod: IpAddr) -> SocketResult<Twin> {
        let held = self.one_more()?;
        let socket = self.twin(this, pod).await?;
        match HostUdpSocket::stream(&mut self.host, same(&socket), None).await {
            Ok((incoming, outgoing)) => Ok(Twin { of: (this.rep(), 0), socket, incoming, outgoing, _held: held }),
            Err(error) => {
                self.host.table.delete(socket)?;
                Err(error)
            }
        }
    }

    /// Before the first datagrams are sent.
    fn decide(&mut self, this: &Resource<OutgoingDatagramStream>, datagrams: &[OutgoingDatagram]) -> SocketResult<()> {
        let Some(remote) = datagrams.iter().find_map(|datagram| datagram.remote_address) else { return Ok(()) };
        let Some(twin) = self.undecided.0.remove(&this.rep()) else { return Ok(()) };
        if self.net.source_for(remote.into()).is_none() {
            return Ok(self.discard(twin)?);
        }
        // What may be sent by the next call is noted in the stream.
        HostOutgoingDatagramStream::check_send(&mut self.host, same(&twin.outgoing))?;
        let table = &mut self.host.table;
        let (outgoing, incoming) = (table.delete(twin.outgoing)?, table.delete(twin.incoming)?);
        let socket = table.delete(twin.socket)?;
        *table.get_mut(this)? = outgoing;
        *table.get_mut(&Resource::new_borrow(twin.of.1))? = incoming;
        *table.get_mut(&Resource::new_borrow(twin.of.0))? = socket;
        Ok(())
    }

    /// It does not become its twin.
    fn stays(&mut self, incoming: u32) -> Result<(), ResourceTableError> {
        let found = self.undecided.0.iter().find(|(_, twin)| twin.of.1 == incoming).map(|(number, _)| *number);
        match found.and_then(|number| self.undecided.0.remove(&number)) {
            Some(twin) => self.discard(twin),
            None => Ok(()),
        }
    }

    fn discard(&mut self, twin: Twin) -> Result<(), ResourceTableError> {
        let table = &mut self.host.table;
        table.delete(twin.outgoing)?;
        table.delete(twin.incoming)?;
        table.delete(twin.socket)?;
        Ok(())
    }
}

impl udp::Host for PodSocketsView<'_> {}

impl HostUdpSocket for PodSocketsView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        let local = self.moved(local, PodNet::datagram_bind_address);
        HostUdpSocket::start_bind(&mut self.host, this, network, local).await
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        HostUdpSocket::finish_bind(&mut self.host, this)
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let remote = remote.map(|remote| self.moved(remote, PodNet::remote_address));
        let pod = self.other_place(&this);
        match (pod, remote) {
            (Some(pod), Some(remote)) if self.net.source_for(remote.into()).is_some() => {
                let moved = self.twin(&this, pod).await?;
                let moved = self.host.table.delete(moved)?;
                *self.host.table.get_mut(&this)? = moved;
            }
            (Some(_) | None, _) => {}
        }
        // First, so that what fails leaves no streams that the guest does not know of. A guest that may have no more
        // sockets goes without.
        let twin = match (pod, remote) {
            (Some(pod), None) => self.streaming_twin(&this, pod).await.ok(),
            (Some(_), Some(_)) | (None, _) => None,
        };
        let streams = HostUdpSocket::stream(&mut self.host, same(&this), remote).await;
        match (twin, &streams) {
            (Some(twin), Ok(streams)) => {
                let twin = Twin { of: (this.rep(), streams.0.rep()), ..twin };
                self.undecided.0.insert(streams.1.rep(), twin);
            }
            (Some(twin), Err(_)) => self.discard(twin)?,
            (None, _) => {}
        }
        streams
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        HostUdpSocket::local_address(&mut self.host, this)
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        HostUdpSocket::remote_address(&mut self.host, this)
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        HostUdpSocket::address_family(&mut self.host, this)
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        HostUdpSocket::unicast_hop_limit(&mut self.host, this)
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        HostUdpSocket::set_unicast_hop_limit(&mut self.host, this, value)
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        HostUdpSocket::receive_buffer_size(&mut self.host, this)
    }

    fn set_receive_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        HostUdpSocket::set_receive_buffer_size(&mut self.host, this, value)
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        HostUdpSocket::send_buffer_size(&mut self.host, this)
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        HostUdpSocket::set_send_buffer_size(&mut self.host, this, value)
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        HostUdpSocket::subscribe(&mut self.host, this)
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.open.remove(&this.rep());
        HostUdpSocket::drop(&mut self.host, this)
    }
}

impl HostIncomingDatagramStream for PodSocketsView<'_> {
    fn receive(&mut self, this: Resource<IncomingDatagramStream>, max: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let number = this.rep();
        let received = HostIncomingDatagramStream::receive(&mut self.host, this, max)?;
        if !received.is_empty() {
            // Whoever sent them knows it where it is.
            self.stays(number)?;
        }
        self.traffic.receive(received.iter().map(|datagram| datagram.data.len()).sum());
        Ok(received)
    }

    fn subscribe(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostIncomingDatagramStream::subscribe(&mut self.host, this)
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.stays(this.rep())?;
        HostIncomingDatagramStream::drop(&mut self.host, this)
    }
}

impl HostOutgoingDatagramStream for PodSocketsView<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        HostOutgoingDatagramStream::check_send(&mut self.host, this)
    }

    fn send(&mut self, this: Resource<OutgoingDatagramStream>, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
        let lengths: Vec<usize> = datagrams.iter().map(|datagram| datagram.data.len()).collect();
        let datagrams: Vec<_> = datagrams
            .into_iter()
            .map(|datagram| OutgoingDatagram {
                remote_address: datagram.remote_address.map(|remote| self.moved(remote, PodNet::remote_address)),
                ..datagram
            })
            .collect();
        self.decide(&this, &datagrams)?;
        let sent = HostOutgoingDatagramStream::send(&mut self.host, this, datagrams)?;
        self.traffic.send(lengths.iter().take(usize::try_from(sent).unwrap_or(usize::MAX)).sum());
        Ok(sent)
    }

    fn subscribe(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostOutgoingDatagramStream::subscribe(&mut self.host, this)
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        if let Some(twin) = self.undecided.0.remove(&this.rep()) {
            self.discard(twin)?;
        }
        HostOutgoingDatagramStream::drop(&mut self.host, this).await
    }
}
