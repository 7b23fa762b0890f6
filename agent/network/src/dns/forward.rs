//! Names outside the cluster: asked of the host's resolvers, with a small cache.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Answers kept.
const CACHE_ENTRIES: u64 = 1024;
/// The host's file is looked at again, when somebody asks, after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Whom to ask for names outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// Those of a file like /etc/resolv.conf, which may change, as on a host that roams.
    File(PathBuf),
    Servers(Vec<SocketAddr>),
    /// Nobody: such names cannot be resolved.
    Nobody,
}

pub(super) struct Forwarder {
    upstream: Upstream,
    /// Our own address: asking ourselves would never end.
    own: IpAddr,
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    modified: Option<SystemTime>,
    looked: Instant,
    servers: Vec<SocketAddr>,
    resolver: Option<Arc<TokioResolver>>,
}

/// What the resolvers say.
pub(super) struct Forwarded {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

impl Forwarded {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

impl Forwarder {
    pub(super) fn new(upstream: Upstream, own: IpAddr) -> Self {
        Self { upstream, own, current: Mutex::new(None) }
    }

    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Forwarded {
        let Some(resolver) = self.resolver() else {
            return Forwarded::failed(ResponseCode::ServFail);
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                Forwarded { code: ResponseCode::NoError, answers: lookup.answers().to_vec(), authorities: Vec::new() }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Forwarded {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none.soa.into_iter().map(|soa| soa.into_record_of_rdata()).collect(),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Forwarded::failed(code),
            Err(error) => {
                debug!(%name, %kind, %error, "the host's resolvers do not answer");
                Forwarded::failed(ResponseCode::ServFail)
            }
        }
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut current = self.current.lock();
        let path = match &self.upstream {
            Upstream::Nobody => return None,
            Upstream::Servers(servers) => {
                let known = current.get_or_insert_with(|| Current::new(servers.clone(), None));
                return known.resolver.clone();
            }
            Upstream::File(path) => path,
        };
        if let Some(known) = current.as_mut() {
            if known.looked.elapsed() < LOOK_AGAIN {
                return known.resolver.clone();
            }
            known.looked = Instant::now();
            if known.modified.is_some() && modified(path) == known.modified {
                return known.resolver.clone();
            }
        }
        let (modified, servers) = (modified(path), self.read(path));
        // An unchanged list keeps its cache.
        if let Some(known) = current.as_mut().filter(|known| known.servers == servers) {
            known.modified = modified;
            return known.resolver.clone();
        }
        current.insert(Current::new(servers, modified)).resolver.clone()
    }

    fn read(&self, path: &Path) -> Vec<SocketAddr> {
        match fs::read_to_string(path) {
            Ok(text) => name_servers(&text).filter(|ip| *ip != self.own).map(|ip| SocketAddr::new(ip, 53)).collect(),
            Err(error) => {
                warn!(path = %path.display(), %error, "the host's resolvers are not known, outside names do not resolve");
                Vec::new()
            }
        }
    }
}

impl Current {
    fn new(servers: Vec<SocketAddr>, modified: Option<SystemTime>) -> Self {
        let resolver = build(&servers);
        Self { modified, looked: Instant::now(), servers, resolver }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The addresses in the `nameserver` lines of a resolv.conf.
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    })
}

fn build(servers: &[SocketAddr]) -> Option<Arc<TokioResolver>> {
    if servers.is_empty() {
        return None;
    }
    let servers = servers.iter().map(|server| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut config.connections {
            connection.port = server.port();
        }
        config
    });
    let mut options = ResolverOpts::default();
    options.cache_size = CACHE_ENTRIES;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
    options.try_tcp_on_error = true;
    let config = ResolverConfig::from_name_servers(servers.collect());
    let built =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build();
    match built {
        Ok(resolver) => Some(Arc::new(resolver)),
        Err(error) => {
            warn!(%error, "no resolver for outside names");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read() {
        let text = "# c\nsearch lan\nnameserver 192.0.2.1\nnameserver  fd00::1\nnameserver bad\noptions ndots:5\n";
        assert_eq!(name_servers(text).map(|ip| ip.to_string()).collect::<Vec<_>>(), ["192.0.2.1", "fd00::1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_hosts_file_is_followed_without_asking_ourselves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let forwarder = Forwarder::new(Upstream::File(file.path().to_owned()), "127.42.0.1".parse().unwrap());
        let servers = |forwarder: &Forwarder| forwarder.current.lock().as_ref().unwrap().servers.clone();
        assert!(forwarder.resolver().is_none());
        fs::write(file.path(), "nameserver 127.42.0.1\nnameserver 192.0.2.1").unwrap();
        // The file's times may be too coarse to tell the two apart.
        fs::File::open(file.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(forwarder.resolver().is_none(), "it is not looked at for every question");
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(forwarder.resolver().is_some());
        assert_eq!(servers(&forwarder), ["192.0.2.1:53".parse().unwrap()]);
    }
}
