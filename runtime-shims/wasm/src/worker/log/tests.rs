use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use bytes::Bytes;
use expect_test::{Expect, expect};
use wasmtime_wasi::p2::{OutputStream, Pollable};

use super::*;

async fn check_log(limits: LogLimits, writes: &[(Stream, &[u8])], expected: Expect) {
    let writer = LogWriter::start().expect("a thread can be started");
    let mut file = tempfile::tempfile().expect("a file can be made");
    let log = writer.log(
        Some(file.try_clone().expect("it can be shared")),
        // It is read once here and once for each line.
        Clock::stepping(1_767_225_599_999_000_000),
        limits,
    );
    let out = LogStream::new(log.clone(), Stream::Stdout);
    let err = LogStream::new(log.clone(), Stream::Stderr);
    for (stream, text) in writes {
        match stream {
            Stream::Stdout => out.put(text),
            Stream::Stderr => err.put(text),
        }
    }
    drop((out, err));
    log.flushed().await;
    file.rewind().expect("it can be read again");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is text");
    let shown: String =
        text.lines()
            .map(|line| {
                if line.len() > 200 {
                    format!("{}… {} bytes\n", &line[..60], line.len())
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
    expected.assert_eq(&shown);
}

#[tokio::test]
async fn pieces_become_lines_and_a_rest_is_written_at_the_end() {
    use Stream::{Stderr, Stdout};
    check_log(
        LogLimits::default(),
        &[(Stdout, b"one\ntw"), (Stderr, b"err\n"), (Stdout, b"o\n\nrest")],
        expect![[r#"
            2026-01-01T00:00:00.000000000Z stdout F one
            2026-01-01T00:00:00.001000000Z stderr F err
            2026-01-01T00:00:00.002000000Z stdout F two
            2026-01-01T00:00:00.003000000Z stdout F 
            2026-01-01T00:00:00.004000000Z stdout F rest
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_long_line_is_cut_into_parts() {
    let long = [vec![b'x'; 40_000], b"\nnext\n".to_vec()].concat();
    check_log(
        LogLimits::default(),
        &[(Stream::Stdout, &long)],
        expect![[r#"
            2026-01-01T00:00:00.000000000Z stdout P xxxxxxxxxxxxxxxxxxxx… 16424 bytes
            2026-01-01T00:00:00.001000000Z stdout P xxxxxxxxxxxxxxxxxxxx… 16424 bytes
            2026-01-01T00:00:00.002000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 7272 bytes
            2026-01-01T00:00:00.003000000Z stdout F next
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_comes_too_fast_is_dropped_and_counted() {
    // The clock moves a millisecond with each line: 100 bytes more may come.
    let limits = LogLimits { bytes_per_second: 100_000, burst_bytes: 1_000, ..LogLimits::default() };
    let line = [vec![b'x'; 459], b"\n".to_vec()].concat();
    let mut writes: Vec<(Stream, &[u8])> = vec![(Stream::Stdout, &line); 9];
    writes.push((Stream::Stderr, b"short\n"));
    check_log(
        limits,
        &writes,
        expect![[r#"
            2026-01-01T00:00:00.000000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
            2026-01-01T00:00:00.001000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
            2026-01-01T00:00:00.005000000Z stderr F coracle: dropped 3 lines (1377 bytes): this log may grow by 100000 bytes a second (annotation coracle.dev/log-bytes-per-second)
            2026-01-01T00:00:00.005000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
            2026-01-01T00:00:00.009000000Z stderr F coracle: dropped 3 lines (1377 bytes): this log may grow by 100000 bytes a second (annotation coracle.dev/log-bytes-per-second)
            2026-01-01T00:00:00.009000000Z stderr F short
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_line_that_is_dropped_in_the_middle_is_ended_and_the_next_is_whole() {
    let limits = LogLimits { bytes_per_second: 10_000, burst_bytes: 200, line_bytes: 100 };
    let long = vec![b'x'; 1000];
    check_log(
        limits,
        &[(Stream::Stdout, &long), (Stream::Stdout, b"end\n"), (Stream::Stdout, b"next\n")],
        expect![[r#"
            2026-01-01T00:00:00.000000000Z stdout P xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
            2026-01-01T00:00:00.002000000Z stdout F 
            2026-01-01T00:00:00.003000000Z stderr F coracle: dropped 1 lines (903 bytes): this log may grow by 10000 bytes a second (annotation coracle.dev/log-bytes-per-second)
            2026-01-01T00:00:00.003000000Z stdout F next
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_a_guest_makes_the_runtime_say_is_bounded_and_what_it_says_by_itself_is_heard() {
    let writer = LogWriter::start().expect("a thread can be started");
    let mut file = tempfile::tempfile().expect("a file can be made");
    let limits = LogLimits { bytes_per_second: 1, burst_bytes: 100, ..LogLimits::default() };
    let log = writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(0), limits);
    let out = LogStream::new(log.clone(), Stream::Stdout);
    out.put(&[b'x'; 1000]);
    out.put(b"\n");
    log.say("the guest was ended");
    for _ in 0..100 {
        log.say(&"y".repeat(4000));
    }
    drop(out);
    log.flushed().await;
    file.rewind().expect("it can be read again");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is text");
    assert!(text.contains("the guest was ended"), "{text}");
    assert!(text.contains("coracle: dropped 9"), "{text}");
    assert!(text.len() < 2 * NOTICE_BYTES as usize, "{} bytes", text.len());
}

#[tokio::test]
async fn what_the_disk_is_too_slow_for_is_dropped() {
    let writer = LogWriter::start().expect("a thread can be started");
    let limits = LogLimits { bytes_per_second: 1 << 40, burst_bytes: 1 << 40, ..LogLimits::default() };
    let log = writer.log(None, Clock::stepping(0), limits);
    // The writer waits for this, as it would for a disk.
    let _disk = log.file.lock();
    let out = LogStream::new(log.clone(), Stream::Stdout);
    let line = [vec![b'x'; 10_000], b"\n".to_vec()].concat();
    out.put(&line);
    // From now on it has what it writes, and takes no more.
    while !log.buffer.lock().bytes.is_empty() {
        std::thread::yield_now();
    }
    for _ in 0..1000 {
        out.put(&line);
    }
    let buffer = log.buffer.lock();
    assert!(buffer.bytes.len() < OVERFLOW_BYTES + 2 * line.len(), "{} bytes", buffer.bytes.len());
    assert!(buffer.dropped.lines > 500, "{:?}", buffer.dropped);
}

#[tokio::test]
async fn a_guest_waits_while_the_buffer_is_full_and_loses_nothing() {
    let writer = LogWriter::start().expect("a thread can be started");
    let mut file = tempfile::tempfile().expect("a file can be made");
    let limits = LogLimits::default();
    let log = writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(0), limits);
    let mut stream = LogStream::new(log.clone(), Stream::Stdout);
    let line = Bytes::from(vec![b'y'; 1023]).iter().copied().chain(*b"\n").collect::<Bytes>();
    for _ in 0..2000 {
        stream.ready().await;
        assert!(stream.check_write().is_ok_and(|room| room > 0));
        assert!(stream.write(line.clone()).is_ok());
        assert!(log.buffer.lock().bytes.len() < BUFFER_BYTES + 2 * limits.line_bytes, "the buffer is bounded");
    }
    drop(stream);
    log.flushed().await;
    file.rewind().expect("it can be read again");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is text");
    assert_eq!(text.lines().count(), 2000);
}

/// A log of which each write arrives as one piece, and whose writer lets lines gather for ever, if nobody is in a hurry.
fn log_in_pieces() -> (Arc<Log>, UnixDatagram) {
    let writer = LogWriter::gathering(Duration::from_secs(1 << 20)).expect("a thread can be started");
    let (ours, theirs) = UnixDatagram::pair().expect("sockets can be made");
    ours.set_read_timeout(Some(Duration::from_secs(60))).expect("it is long");
    let file = File::from(OwnedFd::from(theirs));
    (writer.log(Some(file), Clock::stepping(0), LogLimits::default()), ours)
}

fn lines_of_a_piece(pieces: &UnixDatagram) -> usize {
    let mut piece = vec![0; 1 << 20];
    let length = pieces.recv(&mut piece).expect("something is written");
    piece[..length].iter().filter(|byte| **byte == b'\n').count()
}

#[tokio::test]
async fn a_line_alone_is_written_at_once_and_many_are_written_together() {
    let (log, pieces) = log_in_pieces();
    let stream = LogStream::new(log.clone(), Stream::Stdout);
    stream.put(b"alone\n");
    assert_eq!(lines_of_a_piece(&pieces), 1);
    for _ in 0..100 {
        stream.put(b"one of many\n");
    }
    log.flushed().await;
    assert_eq!(lines_of_a_piece(&pieces), 100);
}

#[tokio::test]
async fn a_buffer_half_full_is_not_left_to_gather() {
    let (log, pieces) = log_in_pieces();
    let stream = LogStream::new(log.clone(), Stream::Stdout);
    stream.put(b"alone\n");
    assert_eq!(lines_of_a_piece(&pieces), 1);
    let line = [vec![b'y'; 1023], b"\n".to_vec()].concat();
    let half = HURRY_BYTES.div_ceil(STAMP_BYTES + 1023);
    for _ in 0..half {
        stream.put(&line);
    }
    assert_eq!(lines_of_a_piece(&pieces), half);
}

#[tokio::test]
async fn what_is_printed_in_one_call_waits_for_room_and_comes_whole() {
    let writer = LogWriter::start().expect("a thread can be started");
    let mut file = tempfile::tempfile().expect("a file can be made");
    let log = writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(0), LogLimits::default());
    let mut stream = LogStream::new(log.clone(), Stream::Stdout);
    let line = Bytes::from(vec![b'y'; 4095]).iter().copied().chain(*b"\n").collect::<Bytes>();
    for _ in 0..500 {
        assert!(stream.blocking_write_and_flush(line.clone()).await.is_ok());
        assert!(log.buffer.lock().bytes.len() < BUFFER_BYTES + 2 * line.len(), "the buffer is bounded");
    }
    drop(stream);
    log.flushed().await;
    file.rewind().expect("it can be read again");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is text");
    assert_eq!(text.lines().filter(|line| line.len() == STAMP_BYTES - 1 + 4095).count(), 500);
    assert_eq!(text.lines().count(), 500);
}
