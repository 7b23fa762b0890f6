//! What a worker that guests have taken over could send: the front reads it without harm, and without waiting for it.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;
use crate::clock::UnixNanos;

/// The hostile end of a pair, and the front's.
async fn pair() -> (OwnedFd, Channel) {
    let (theirs, ours) = Channel::pair().expect("a pair can be made");
    (theirs, Channel::new(ours).expect("it can be used"))
}

/// Sends a datagram as it is.
fn send(fd: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("it is sent");
}

/// What the front makes of the next datagram.
async fn received(channel: &Channel) -> String {
    match channel.receive().await {
        Ok(Some(message)) => match message.parse::<Report>() {
            Ok(Report::Welcome(_)) => "welcome".to_owned(),
            Ok(Report::Done { .. }) => "done".to_owned(),
            Ok(Report::Exited(_)) => "exited".to_owned(),
            Err(_) => "no report".to_owned(),
        },
        Ok(None) => "the end".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_file_that_would_never_end_is_not_waited_for() {
    let (theirs, ours) = pair().await;
    // A pipe that nobody writes to, a socket, a device without end, a file that is too long.
    let (pipe, _writing) = rustix::pipe::pipe().expect("a pipe can be made");
    let (socket, _other) = Channel::pair().expect("a pair can be made");
    let endless = std::fs::File::open("/dev/zero").expect("it is there");
    let long = tempfile::tempfile().expect("a file can be made");
    long.set_len(1 << 40).expect("it has holes");
    for fd in [pipe.as_fd(), socket.as_fd(), endless.as_fd(), long.as_fd()] {
        send(&theirs, b"f", &[fd]);
        assert_eq!(received(&ours).await, "a long message that is no file of its size");
    }
    send(&theirs, b"f", &[]);
    assert_eq!(received(&ours).await, "a long message came without its file");
    // The next one is read as if nothing had been.
    let exit = Exit::with_code(7);
    let report = Report::Exited(Ended { id: "one".to_owned(), at: UnixNanos::default(), exit });
    let mut file = tempfile::tempfile().expect("a file can be made");
    file.write_all(&serde_json::to_vec(&report).expect("it is JSON")).expect("it can be written");
    std::io::Seek::rewind(&mut file).expect("it can be rewound");
    send(&theirs, b"f", &[file.as_fd()]);
    assert_eq!(received(&ours).await, "exited");
}

#[tokio::test]
async fn rubbish_is_no_report_and_harms_nothing() {
    const ROUNDS: usize = 20_000;
    let (theirs, ours) = pair().await;
    let exit = Exit { message: "a trap".to_owned(), ..Exit::with_code(134) };
    let reports = [
        Report::Done { number: 1, outcome: Ok(Answer::Stats(vec![GuestStats::default()])) },
        Report::Done { number: u64::MAX, outcome: Err("no".to_owned()) },
        Report::Exited(Ended { id: "one".to_owned(), at: UnixNanos::default(), exit }),
    ];
    let seeds = reports.map(|report| serde_json::to_vec(&report).expect("it is JSON"));
    let mut state = 0x0dd5_eed0_u64;
    // xorshift: the same on every run.
    let mut chance = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit as u64).expect("it is small")
    };
    let mut told = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..ROUNDS {
        let mut bytes = vec![b'i'];
        bytes.extend(&seeds[chance(seeds.len())]);
        for _ in 0..chance(4) {
            let at = chance(bytes.len());
            match chance(4) {
                0 => bytes[at] = u8::try_from(chance(256)).expect("it is a byte"),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.splice(at..at, *b"[[[[[[[[{\"")),
                _ => bytes[at] = b'0' + u8::try_from(chance(10)).expect("it is a digit"),
            }
        }
        // It must not be read as a file; that is the other test's.
        if bytes[0] == b'f' {
            bytes[0] = b'i';
        }
        send(&theirs, &bytes, &[]);
        let outcome = received(&ours).await;
        let outcome = outcome.split(" kind").next().unwrap_or_default().to_owned();
        *told.entry(outcome).or_default() += 1;
    }
    let told: Vec<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(told, ["a message of unknown", "done", "exited", "no report"]);
}

#[tokio::test]
async fn nested_without_end_is_no_report() {
    let (theirs, ours) = pair().await;
    send(&theirs, &[b"i".as_slice(), &b"[".repeat(30_000)].concat(), &[]);
    assert_eq!(received(&ours).await, "no report");
}
