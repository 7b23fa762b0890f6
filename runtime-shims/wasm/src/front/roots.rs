//! The certificate authorities this node trusts, as one file for workers, who cannot find it themselves.

use std::fs::File;

/// Debian, Alpine and Arch; Fedora and its kin; openSUSE; and what many have besides.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// None where the node has none; then the worker's own take their place.
pub(super) fn bundle() -> Option<File> {
    BUNDLES.iter().find_map(|path| File::open(path).ok())
}
