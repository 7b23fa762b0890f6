//! Owns the text of a kubeconfig that embeds its certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::authority::Identity;

/// A kubeconfig for one cluster and one user, named `coracle`.
pub fn render(server: &str, ca_pem: &str, user: &str, identity: &Identity) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: coracle
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: coracle
  context:
    cluster: coracle
    user: {user}
current-context: coracle
preferences: {{}}
"
    )
}

/// The client certificate that a kubeconfig of ours embeds, as PEM, and the CA and server it names.
pub(super) struct Embedded {
    pub(super) server: String,
    pub(super) ca_pem: String,
    pub(super) identity: Identity,
}

/// Reads back what [`render`] wrote; `None` if the text is of another shape.
pub(super) fn parse(text: &str) -> Option<Embedded> {
    let value =
        |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": ").map(str::to_owned));
    let decoded = |key: &str| String::from_utf8(STANDARD.decode(value(key)?).ok()?).ok();
    Some(Embedded {
        server: value("server")?,
        ca_pem: decoded("certificate-authority-data")?,
        identity: Identity {
            certificate_pem: decoded("client-certificate-data")?,
            key_pem: decoded("client-key-data")?,
        },
    })
}
