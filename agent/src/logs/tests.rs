use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::*;

const LOG: &str = "\
2026-01-01T00:00:01.000000001Z stdout F one
2026-01-01T00:00:02Z stderr F two
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03Z stdout F ee
2026-01-01T00:00:04Z stdout F \n2026-01-01T00:00:05Z stdout F five
";

fn text_of(reader: &mut Reader<'_>) -> String {
    let mut text = String::new();
    while let Some(chunk) = reader.next().unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

fn check_log(log: &str, options: LogOptions, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, log).unwrap();
    expected.assert_eq(&text_of(&mut Reader::open(&path, &options).unwrap()));
}

#[test]
fn gives_every_line_and_joins_parts() {
    check_log(
        LOG,
        LogOptions::default(),
        expect![[r#"
        one
        two
        three

        five
    "#]],
    );
}

#[test]
fn tail_counts_whole_lines() {
    for (tail, expected) in [
        (0, expect![""]),
        (1, expect![["five\n"]]),
        (
            2,
            expect![[r#"

            five
        "#]],
        ),
        (3, expect![["three\n\nfive\n"]]),
        (4, expect![["two\nthree\n\nfive\n"]]),
        (99, expect![["one\ntwo\nthree\n\nfive\n"]]),
    ] {
        check_log(LOG, LogOptions { tail: Some(tail), ..LogOptions::default() }, expected);
    }
}

#[test]
fn tail_reaches_over_many_blocks() {
    let mut log = String::new();
    for n in 0..5000 {
        writeln!(log, "2026-01-01T00:00:00Z stdout F line {n} {}", "x".repeat(n % 50)).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, log).unwrap();
    let options = LogOptions { tail: Some(1234), ..LogOptions::default() };
    let text = text_of(&mut Reader::open(&path, &options).unwrap());
    assert_eq!(text.lines().count(), 1234);
    assert!(text.starts_with("line 3766 "), "{}", &text[..40]);
}

#[test]
fn timestamps_stand_once_before_a_line() {
    check_log(
        LOG,
        LogOptions { timestamps: true, ..LogOptions::default() },
        expect![[r#"
        2026-01-01T00:00:01.000000001Z one
        2026-01-01T00:00:02Z two
        2026-01-01T00:00:03Z three
        2026-01-01T00:00:04Z 
        2026-01-01T00:00:05Z five
    "#]],
    );
}

#[test]
fn since_stream_and_limit_select() {
    let since = LogOptions { since: Some("2026-01-01T00:00:03Z".parse().unwrap()), ..LogOptions::default() };
    check_log(
        LOG,
        since,
        expect![[r#"
        three

        five
    "#]],
    );
    let errors = LogOptions { stream: Some("Stderr".to_owned()), ..LogOptions::default() };
    check_log(
        LOG,
        errors,
        expect![[r#"
        two
    "#]],
    );
    check_log(LOG, LogOptions { limit_bytes: Some(6), ..LogOptions::default() }, expect![["one\ntw"]]);
}

#[test]
fn what_is_no_cri_line_is_shown_as_it_is() {
    check_log("rubbish\n2026 stdin F x\n\u{0}\n", LogOptions::default(), expect![["rubbish\n2026 stdin F x\n\0\n"]]);
}

/// What `follow` gave, until it ends.
async fn collect(mut receiver: mpsc::Receiver<Bytes>) -> String {
    let mut text = String::new();
    while let Some(chunk) = receiver.recv().await {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

#[tokio::test]
async fn follow_sees_what_is_written_across_a_rotation_and_ends_with_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, "2026-01-01T00:00:01Z stdout F one\n").unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let ended = Stop::new();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let following = follow(&path, &options, &ended, &sender);
    let writing = async {
        assert_eq!(receiver.recv().await.unwrap(), "one\n");
        // A line in two writes, then a new file in the place of the old one.
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("2026-01-01T00:00:02Z stdout F tw");
        std::fs::write(&path, &text).unwrap();
        std::fs::write(&path, format!("{text}o\n")).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "two\n");
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        std::fs::write(dir.path().join("new"), "2026-01-01T00:00:03Z stdout F three\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "three\n");
        ended.cancel();
    };
    let (result, ()) = tokio::join!(following, writing);
    result.unwrap();
    drop(sender);
    assert_eq!(collect(receiver).await, "");
}
