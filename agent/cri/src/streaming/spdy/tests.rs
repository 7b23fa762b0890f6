use tokio::io::DuplexStream;

use super::*;

/// Sends `frames` to a server and tells what it says of them.
async fn hear(frames: &[Vec<u8>]) -> String {
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let (connection, _link, mut opened) = connection(theirs, Side::Server, 4);
    for frame in frames {
        ours.write_all(frame).await.unwrap();
    }
    ours.shutdown().await.unwrap();
    let (ended, heard) = tokio::join!(connection.run(), async {
        let mut heard = String::new();
        while let Some(mut stream) = opened.recv().await {
            let mut bytes = Vec::new();
            while let Some(piece) = stream.input.recv().await {
                bytes.extend_from_slice(&piece);
            }
            heard += &format!("{:?} {}; ", stream.headers, String::from_utf8_lossy(&bytes));
        }
        heard
    });
    format!("{heard}{}", ended.map_or_else(|error| error.to_string(), |()| "ended".to_owned()))
}

fn open(stream: u32, streamtype: &str, compression: &mut headers::Writer) -> Vec<u8> {
    let headers = vec![("streamtype".to_owned(), streamtype.to_owned())];
    encode(Control::Open { stream, headers }, compression).unwrap()
}

#[tokio::test]
async fn streams_and_their_data_are_told_apart() {
    let mut compression = headers::Writer::new();
    let frames = [
        open(1, "a", &mut compression),
        open(3, "b", &mut compression),
        data(3, 0, b"three "),
        data(1, FIN, b"one"),
        data(9, 0, b"nobody's"),
        frame(4, 0, &[0; 12]),
        frame(9, 0, &[0; 8]),
        data(3, FIN, b"and more"),
    ];
    assert_eq!(hear(&frames).await, r#"[("streamtype", "a")] one; [("streamtype", "b")] three and more; ended"#);
}

#[tokio::test]
async fn what_is_not_spdy_ends_the_connection_and_takes_no_memory() {
    let mut wrong_version = frame(PING, 0, &[0; 4]);
    wrong_version[1] = 2;
    let mut endless = frame(SYN_STREAM, 0, &[]);
    endless[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut cut = data(1, 0, b"cut short");
    cut.truncate(12);
    let again = {
        let mut compression = headers::Writer::new();
        [open(3, "a", &mut compression), open(3, "b", &mut compression)].concat()
    };
    let mut told = String::new();
    for frames in [
        wrong_version,
        endless,
        cut,
        frame(SYN_STREAM, 0, &[0, 0, 0, 1]),
        frame(SYN_STREAM, 0, &[[0, 0, 0, 1, 0, 0, 0, 0, 0, 0].as_slice(), b"no zlib"].concat()),
        open(2, "even", &mut headers::Writer::new()),
        again,
        frame(PING, 0, &[]),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
    ] {
        let heard = hear(&[frames]).await;
        told += &format!("{}\n", heard.rsplit("; ").next().unwrap());
    }
    expect_test::expect![[r#"
        SPDY of version 2
        a control frame of 16777215 bytes
        early eof
        a frame that is too short
        headers are not compressed by zlib
        a stream with the number 2
        a stream with the number 3
        a frame that is too short
        early eof
    "#]]
    .assert_eq(&told);
}

/// Two ends of one connection, running.
fn pair(streams_max: usize) -> (Link, Link, mpsc::Receiver<SpdyStream>, impl Future<Output = (bool, bool)>) {
    let (one, two): (DuplexStream, DuplexStream) = tokio::io::duplex(4096);
    let (client, ours, _none) = connection(one, Side::Client, 1);
    let (server, theirs, opened) = connection(two, Side::Server, streams_max);
    let running = async {
        let (client, server) = tokio::join!(client.run(), server.run());
        (client.is_ok(), server.is_ok())
    };
    (ours, theirs, opened, running)
}

#[tokio::test]
async fn both_sides_end_a_stream_by_themselves_and_a_large_answer_arrives_whole() {
    let (client, server, mut opened, running) = pair(4);
    let echo = async {
        let mut stream = opened.recv().await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.input.recv().await {
            bytes.extend_from_slice(&piece);
        }
        stream.output.send(bytes.into()).await.unwrap();
        stream.output.end().await.unwrap();
        server.finish().await;
    };
    let ask = async {
        let mut stream = client.open(vec![("streamtype".into(), "data".into())]).await.unwrap();
        let sent = Bytes::from(vec![7; 1 << 20]);
        stream.output.send(sent.clone()).await.unwrap();
        stream.output.end().await.unwrap();
        let mut got = Vec::new();
        while let Some(piece) = stream.input.recv().await {
            got.extend_from_slice(&piece);
        }
        client.finish().await;
        got == sent
    };
    let ((), same, ended) = tokio::join!(echo, ask, running);
    assert!(same);
    assert_eq!(ended, (true, true));
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_until_others_have_ended() {
    let (client, server, mut opened, running) = pair(1);
    let talk = async {
        let first = client.open(vec![("streamtype".into(), "1".into())]).await.unwrap();
        let mut taken = opened.recv().await.unwrap();
        let mut second = client.open(vec![("streamtype".into(), "2".into())]).await.unwrap();
        assert_eq!(second.input.recv().await, None, "the second is refused");
        first.output.end().await.unwrap();
        assert_eq!(taken.input.recv().await, None);
        taken.output.end().await.unwrap();
        // The end has been written when its answer is here.
        let mut first = first;
        assert_eq!(first.input.recv().await, None);
        client.open(vec![("streamtype".into(), "3".into())]).await.unwrap();
        let third = opened.recv().await.unwrap();
        assert_eq!(value(&third.headers, "streamtype"), Some("3"));
        client.finish().await;
        server.finish().await;
    };
    tokio::join!(talk, running);
}

#[tokio::test]
async fn pings_are_answered() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 10);
    let (connection, link, _opened) = connection(theirs, Side::Server, 1);
    let talk = async {
        ours.write_all(&frame(PING, 0, &[0, 0, 0, 5])).await.unwrap();
        let mut answer = [0; 12];
        ours.read_exact(&mut answer).await.unwrap();
        link.finish().await;
        drop(ours);
        answer
    };
    let (answer, _) = tokio::join!(talk, connection.run());
    assert_eq!(answer.to_vec(), frame(PING, 0, &[0, 0, 0, 5]));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_said_pings_are_and_their_answers_are_not_answered() {
    for (side, numbers) in [(Side::Server, [2, 4, 6]), (Side::Client, [1, 3, 5])] {
        let (mut ours, theirs) = tokio::io::duplex(1 << 10);
        let (connection, link, _opened) = connection(theirs, side, 1);
        let talk = async {
            for number in numbers {
                let mut ping = [0; 12];
                ours.read_exact(&mut ping).await.unwrap();
                assert_eq!(ping.to_vec(), frame(PING, 0, &u32::to_be_bytes(number)));
                ours.write_all(&ping).await.unwrap();
            }
            link.finish().await;
            drop(ours);
        };
        let _ = tokio::join!(talk, connection.run());
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_for_an_hour_still_gets_the_last_word() {
    // What is sent meanwhile does not all find room.
    let (mut ours, theirs) = tokio::io::duplex(64);
    let (connection, link, _opened) = connection(theirs, Side::Server, 1);
    let talk = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let mut heard = Vec::new();
        let (_, got) = tokio::join!(link.finish(), ours.read_to_end(&mut heard));
        got.unwrap();
        drop(ours);
        heard
    };
    let (heard, ended) = tokio::join!(talk, connection.run());
    ended.unwrap();
    assert!(heard.ends_with(&frame(GOAWAY, 0, &[0; 8])));
}
