//! Ranges that are taken in, the next free one out.

use expect_test::{Expect, expect};

use super::plan::Ranges;

fn check_free(cluster: &str, mask: u8, taken: &str, expected: Expect) {
    let free = Ranges::new(cluster.parse().unwrap(), mask).map(|ranges| {
        let taken = taken.split_whitespace().map(|t| t.parse().unwrap()).collect();
        ranges.free(&taken).map_or_else(|| "none".to_owned(), |n| n.to_string())
    });
    expected.assert_eq(&free.unwrap_or_else(|e| e.to_string()));
}

#[test]
fn the_lowest_free_range_is_given() {
    check_free("127.42.0.0/16", 20, "", expect!["127.42.0.0/20"]);
    check_free("127.42.0.0/16", 20, "127.42.0.0/20 127.42.32.0/20", expect!["127.42.16.0/20"]);
    check_free("127.42.0.0/16", 20, "127.42.16.0/20 10.0.0.0/8", expect!["127.42.0.0/20"]);
}

#[test]
fn ranges_of_another_size_are_respected() {
    check_free("127.42.0.0/16", 20, "127.42.0.0/18", expect!["127.42.64.0/20"]);
    check_free("127.42.0.0/16", 20, "127.42.0.0/24 127.42.1.0/24 127.42.17.0/24", expect!["127.42.32.0/20"]);
}

#[test]
fn exhaustion_and_nonsense_are_told() {
    check_free("127.42.0.0/30", 30, "127.42.0.0/30", expect!["none"]);
    check_free("127.42.0.0/16", 20, "127.0.0.0/8", expect!["none"]);
    check_free(
        "127.42.0.0/16",
        8,
        "",
        expect!["node mask /8 does not divide cluster CIDR 127.42.0.0/16: it must be between /16 and /30"],
    );
    check_free(
        "127.42.0.0/16",
        32,
        "",
        expect!["node mask /32 does not divide cluster CIDR 127.42.0.0/16: it must be between /16 and /30"],
    );
    check_free("0.0.0.0/0", 30, "", expect!["0.0.0.0/30"]);
}
