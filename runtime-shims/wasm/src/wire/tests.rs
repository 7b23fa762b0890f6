use std::io::Read;
use std::os::fd::AsFd;

use rustix::process::{Resource, Rlimit};

use super::*;

async fn channels() -> (Channel, Channel) {
    let (one, two) = Channel::pair().expect("a pair can be made");
    (Channel::new(one).expect("it can be used"), Channel::new(two).expect("it can be used"))
}

#[tokio::test]
async fn messages_arrive_whole_with_their_descriptors() {
    let (one, two) = channels().await;
    let file = tempfile::tempfile().expect("a file can be made");
    std::io::Write::write_all(&mut &file, b"contents").expect("it can be written");
    std::io::Seek::rewind(&mut &file).expect("it can be rewound");
    one.send(&"short", &[file.as_fd(), file.as_fd()]).await.expect("it is sent");
    // Longer than a datagram may be.
    let long = "x".repeat(3 << 20);
    one.send(&long, &[file.as_fd()]).await.expect("it is sent");
    drop(one);
    let first = two.receive().await.expect("it arrives").expect("it is there");
    assert_eq!((first.parse::<String>().expect("text").as_str(), first.fds.take().len()), ("short", 2));
    let second = two.receive().await.expect("it arrives").expect("it is there");
    assert_eq!(second.parse::<String>().expect("text"), long);
    let [file] = <[_; 1]>::try_from(second.fds.take()).expect("one");
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).expect("it is open");
    assert_eq!(text, "contents");
    assert!(two.receive().await.expect("the end is no error").is_none());
}

#[tokio::test]
async fn a_sender_waits_for_a_slow_receiver() {
    let (one, two) = channels().await;
    let text = "y".repeat(20_000);
    let sending = async {
        for _ in 0..100 {
            one.send(&text, &[]).await.expect("it is sent");
        }
    };
    let receiving = async {
        for _ in 0..100 {
            let message = two.receive().await.expect("it arrives").expect("it is there");
            assert_eq!(message.parse::<String>().expect("text"), text);
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn too_many_descriptors_are_refused_before_they_are_sent() {
    let (one, _two) = channels().await;
    let file = tempfile::tempfile().expect("a file can be made");
    let refused = one.send(&"many", &vec![file.as_fd(); 300]).await;
    assert!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput));
}

#[test]
fn no_more_of_a_message_is_kept_than_is_shown() {
    assert_eq!(shown("short".to_owned()), "short");
    assert_eq!(shown(format!("x{}", "é".repeat(10_000))).len(), MESSAGE_BYTES_MAX - 1);
}

#[test]
fn a_message_whose_descriptors_find_no_room_is_lost_alone() {
    crate::confine::tests::check_child("wire::tests::child_out_of_files");
}

#[tokio::test]
#[ignore = "run by a_message_whose_descriptors_find_no_room_is_lost_alone, in a process of its own"]
async fn child_out_of_files() {
    let (one, two) = channels().await;
    let file = tempfile::tempfile().expect("a file can be made");
    one.send(&"with a file", &[file.as_fd()]).await.expect("it is sent");
    one.send(&"x".repeat(100_000), &[]).await.expect("it is sent");
    one.send(&"alone", &[]).await.expect("it is sent");
    let full = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Nofile, full).expect("less is always allowed");
    for _ in 0..2 {
        let lost = two.receive().await.expect_err("there is no room for it");
        assert!(is_out_of_files(&lost), "{lost}");
    }
    let message = two.receive().await.expect("it arrives").expect("it is there");
    assert_eq!(message.parse::<String>().expect("text"), "alone");
}
