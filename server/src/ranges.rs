//! The address ranges of this host that clusters have taken: two clusters on one host need ranges of their own.
//!
//! A claim is a socket in Linux' abstract namespace whose name says range, process and data directory. It ends with its
//! process, all users see it, and it is bound to the network namespace, as the loopback addresses themselves are.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

const PREFIX: &str = "coracle-range ";
/// Of an abstract socket, without the NUL it begins with.
const NAME_BYTES: usize = 107;

/// The ranges this process holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claims {
    _sockets: Vec<UnixDatagram>,
}

/// Somebody's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    range: Ipv4Net,
    process: u32,
    data_dir: String,
}

/// Takes the ranges of pods and services, or says who has them and what to do.
pub(crate) fn claim(pods: Ipv4Net, services: Ipv4Net, data_dir: &Path) -> anyhow::Result<Claims> {
    let own = std::process::id();
    let mut sockets = Vec::new();
    // First taken, then looked around: of two that start at the same time at least one sees the other.
    for range in [pods, services] {
        sockets.push(bind(range, own, data_dir).with_context(|| format!("cannot claim the range {range}"))?);
    }
    let others: Vec<Claim> = read("/proc/net/unix").into_iter().filter(|claim| claim.process != own).collect();
    check(pods, services, &others)?;
    Ok(Claims { _sockets: sockets })
}

fn bind(range: Ipv4Net, process: u32, data_dir: &Path) -> std::io::Result<UnixDatagram> {
    let mut name = format!("{PREFIX}{range} {process} {}", data_dir.display()).into_bytes();
    name.truncate(NAME_BYTES);
    match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?) {
        // A second server of one process, as in tests: the claim is there already.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => UnixDatagram::unbound(),
        other => other,
    }
}

fn read(table: &str) -> Vec<Claim> {
    match fs::read_to_string(table) {
        Ok(text) => text.lines().filter_map(parse).collect(),
        Err(error) => {
            tracing::warn!(%error, table, "other clusters on this host cannot be seen");
            Vec::new()
        }
    }
}

/// The claim in a line of /proc/net/unix, where abstract names begin with `@`.
fn parse(line: &str) -> Option<Claim> {
    let (_, name) = line.split_once(&format!("@{PREFIX}"))?;
    let mut words = name.splitn(3, ' ');
    let (range, process) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Claim { range, process, data_dir: words.next().unwrap_or_default().to_owned() })
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn check(pods: Ipv4Net, services: Ipv4Net, others: &[Claim]) -> anyhow::Result<()> {
    for (range, flag, what) in [(pods, "--cluster-cidr", "pods"), (services, "--service-cidr", "services")] {
        let Some(other) = others.iter().find(|other| overlap(other.range, range)) else { continue };
        let cure = match free(others) {
            Some((pods, services)) => format!("start this one with --cluster-cidr {pods} --service-cidr {services}"),
            None => format!("stop that one, or choose another range with {flag}"),
        };
        bail!(
            "the addresses of {what} ({range}) are taken by the cluster in {} (process {}): {cure}, always with the same \
             --data-dir",
            other.data_dir,
            other.process,
        );
    }
    Ok(())
}

/// Two neighbouring ranges that nobody has.
fn free(others: &[Claim]) -> Option<(Ipv4Net, Ipv4Net)> {
    let range = |second: u8| Ipv4Net::new_assert([127, second, 0, 0].into(), 16);
    let is_free = |candidate: Ipv4Net| !others.iter().any(|other| overlap(other.range, candidate));
    (42..=254).step_by(2).map(|second| (range(second), range(second + 1))).find(|(a, b)| is_free(*a) && is_free(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_range_is_named_with_the_cure() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
             0000: 00000002 00000000 00000000 0002 01 77 @coracle-range 127.42.0.0/16 41 /home/a b/.local/share/coracle\n\
             0000: 00000002 00000000 00000000 0002 01 78 @coracle-range 127.43.0.0/16 41 /home/a b/.local/share/coracle\n\
             0000: 00000002 00000000 00000000 0002 01 79 @other 127.44.0.0/16\n";
        let others: Vec<Claim> = table.lines().filter_map(parse).collect();
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let error = check(net("127.40.0.0/14"), net("127.60.0.0/16"), &others).unwrap_err().to_string();
        assert_eq!(
            error,
            "the addresses of pods (127.40.0.0/14) are taken by the cluster in /home/a b/.local/share/coracle (process 41): \
             start this one with --cluster-cidr 127.44.0.0/16 --service-cidr 127.45.0.0/16, always with the same --data-dir"
        );
        let error = check(net("127.50.0.0/16"), net("127.43.8.0/24"), &others).unwrap_err().to_string();
        assert!(error.contains("of services (127.43.8.0/24)"), "{error}");
        check(net("127.50.0.0/16"), net("127.51.0.0/16"), &others).unwrap();
    }

    #[test]
    fn a_claim_is_seen_while_it_is_held() {
        let range: Ipv4Net = "127.201.7.0/24".parse().unwrap();
        let seen = || read("/proc/net/unix").into_iter().find(|claim| claim.range == range);
        let socket = bind(range, 999_999, Path::new("/some/where")).unwrap();
        let expected = Claim { range, process: 999_999, data_dir: "/some/where".to_owned() };
        assert_eq!(seen(), Some(expected));
        let error = claim(range, "127.202.7.0/24".parse().unwrap(), Path::new("/x")).unwrap_err().to_string();
        assert!(error.contains("/some/where (process 999999)"), "{error}");
        drop(socket);
        assert_eq!(seen(), None);
    }
}
