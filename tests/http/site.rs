//! A server on a loopback port with a data directory of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use coracle_apiserver::auth::pki::PkiConfig;
use coracle_apiserver::serve::{self, Limits};
use coracle_apiserver::{ApiServerConfig, Assembly, AssemblyConfig, UserInfo};
use coracle_client::{Client, Clock, Identity, RandomIds, RemoteConfig, SystemClock, TaskScope};
use coracle_store::{Store, StoreConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::link::{Answer, Link, Protocol};

pub(crate) struct Site {
    pub(crate) assembly: Assembly,
    pub(crate) address: SocketAddr,
    pub(crate) scope: TaskScope,
    pub(crate) clock: Arc<dyn Clock>,
    _dir: TempDir,
}

/// What a test may want otherwise.
pub(crate) struct Wishes {
    pub(crate) api: ApiServerConfig,
    pub(crate) store: StoreConfig,
    pub(crate) socket: Limits,
}

impl Site {
    pub(crate) async fn new() -> Site {
        Site::with(|_| {}).await
    }

    pub(crate) async fn with(wish: impl FnOnce(&mut Wishes)) -> Site {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let listener = serve::listen((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut wishes = Wishes {
            api: ApiServerConfig::new(address),
            store: StoreConfig::new(dir.path().join("state.db")),
            socket: Limits::default(),
        };
        wishes.store.sync = false;
        wish(&mut wishes);
        let clock = SystemClock::shared();
        let config = AssemblyConfig {
            api: wishes.api,
            pki: PkiConfig {
                data_dir: dir.path().to_path_buf(),
                hostname: "server".to_owned(),
                tls_san: Vec::new(),
                addresses: Vec::new(),
                service_ip: Ipv4Addr::new(127, 43, 0, 1).into(),
                cluster_domain: "cluster.local".to_owned(),
                server_url: format!("https://{address}"),
            },
            token: None,
        };
        let store = Store::open(wishes.store).expect("an empty store opens");
        let assembly =
            Assembly::build(config, store, clock.clone(), RandomIds::from_os()).await.expect("the server starts");
        let scope = TaskScope::root();
        let (router, pki) = (assembly.api.router(), assembly.pki.clone());
        serve::serve(listener, router, pki, clock.clone(), wishes.socket, &scope).expect("the server serves");
        let site = Site { assembly, address, scope, clock, _dir: dir };
        let account = json!({"metadata": {"name": "default"}});
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        link.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
        site
    }

    pub(crate) fn ca(&self) -> &str {
        self.assembly.pki.server_ca().pem()
    }

    /// A certificate of the cluster for this user.
    pub(crate) fn certificate(&self, user: &str, group: Option<&str>) -> Identity {
        let issued = self.assembly.pki.issue_client(user, group, self.clock.now()).expect("a certificate is issued");
        Identity::ClientCert { cert_pem: issued.certificate_pem, key_pem: issued.key_pem }
    }

    pub(crate) fn admin(&self) -> Identity {
        self.certificate("admin", Some("system:masters"))
    }

    /// Lets the group read what the role `view` shows.
    pub(crate) async fn let_view(&self, group: &str) {
        let binding = json!({
            "metadata": {"name": group},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        let mut link = self.link(&self.admin(), Protocol::Http2).await;
        link.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    }

    /// One TLS connection.
    pub(crate) async fn link(&self, identity: &Identity, protocol: Protocol) -> Link {
        Link::open(self.address, self.ca(), identity, protocol).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, identity: &Identity, path: &str) -> Answer {
        self.link(identity, Protocol::Http2).await.get(path).await
    }

    /// Without TCP and TLS.
    pub(crate) fn inside(&self) -> Client {
        self.assembly.api.client(UserInfo::system("admin"))
    }

    pub(crate) fn remote(&self, identity: Identity) -> Client {
        let config = RemoteConfig::new(format!("https://{}", self.address), self.ca(), identity);
        Client::remote(config).expect("the client's settings are sound")
    }
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
