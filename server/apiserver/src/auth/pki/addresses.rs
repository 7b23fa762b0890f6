//! Owns finding the addresses of this host, for the names in the serving certificate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of this host's interfaces, loopback and link-local ones left out. What cannot be read is left out too:
/// a certificate without such a name still serves `127.0.0.1` and what `--tls-san` names.
pub fn of_this_host() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all: Vec<IpAddr> = fib_trie(&v4).into_iter().map(IpAddr::V4).collect();
    all.extend(if_inet6(&v6).into_iter().map(IpAddr::V6));
    all.sort_unstable();
    all.dedup();
    all
}

/// Local addresses in the kernel's routing trie: a `|-- ADDRESS` line followed by `/32 host LOCAL`.
fn fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.take().filter(|a| !a.is_loopback() && !a.is_link_local()));
        }
    }
    found
}

/// `if_inet6` has 32 hexadecimal digits, then index, prefix length, scope (00 = global), flags and name.
fn if_inet6(text: &str) -> Vec<Ipv6Addr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(digits), Some(scope)) = (words.next(), words.nth(2)) else { continue };
        if let (Ok(bits), "00") = (u128::from_str_radix(digits, 16), scope) {
            found.push(Ipv6Addr::from_bits(bits));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    #[test]
    fn local_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 169.254.1.1\n        /32 host LOCAL\n";
        let inet6 = "fe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000007 02 40 00 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\nshort\n";
        let found = (super::fib_trie(trie), super::if_inet6(inet6));
        expect!["([10.1.2.3, 10.1.2.3], [2001:db8::7])"].assert_eq(&format!("{found:?}"));
    }
}
