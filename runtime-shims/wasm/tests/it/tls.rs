//! Requests that guests send over TLS: whom they trust.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::shim::{Guest, Shim, guest};

/// A server whose certificate an authority of its own has signed: where it is, and that authority.
async fn server(ip: &str) -> (SocketAddr, String, JoinSet<()>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![ip.to_owned()]).expect("an address");
    let leaf = leaf.signed_by(&key, &authority).expect("it is signed");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((ip, 0)).await.expect("any loopback address can be bound");
    let address = listener.local_addr().expect("it has an address");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntrusted\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, authority.pem(), serving)
}

async fn told(shim: &Shim, sandbox: &str, name: &str, guest: Guest) -> String {
    let id = shim.create(sandbox, name, guest).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    assert_eq!(shim.exit(&id).await.exit_code, 0);
    let log = shim.log("tls", name);
    log.split_once(": ").map_or(log.clone(), |(_, said)| said.trim_end().to_owned())
}

#[tokio::test]
async fn the_clusters_authority_is_trusted_by_pods_that_have_it() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("tls", &[], &[]).await;
    let ip = shim.ip(&sandbox).await;
    let other = ip.rsplit_once('.').map(|(net, _)| format!("{net}.200")).expect("an address");
    let (address, authority, _serving) = server(&other).await;
    let account = shim.dir.path().join("account");
    fs::create_dir(&account).expect("it can be made");
    fs::write(account.join("ca.crt"), authority).expect("it can be written");
    let asking = guest("net").args(&["get-tls", &address.to_string(), "/"]);
    let with = asking.clone().mount(&account, "/var/run/secrets/kubernetes.io/serviceaccount", true);
    assert_eq!(told(&shim, &sandbox, "with", with).await, "200 trusted");
    let without = told(&shim, &sandbox, "without", asking).await;
    assert!(without.contains("Tls"), "{without}");
    // An authority that is not the cluster's vouches for nobody.
    let (stranger, _unknown, _serving_too) = server(&other).await;
    let asking = guest("net").args(&["get-tls", &stranger.to_string(), "/"]);
    let with = asking.mount(&account, "/var/run/secrets/kubernetes.io/serviceaccount", true);
    let refused = told(&shim, &sandbox, "stranger", with).await;
    assert!(refused.contains("Tls"), "{refused}");
}
