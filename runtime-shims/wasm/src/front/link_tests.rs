use futures::FutureExt;

use super::*;
use crate::front::domain::Domain;
use crate::wire::Exit;

const KILLED: &str = "killed by signal 9 (SIGKILL): by somebody, or for lack of memory on the node";

/// A front's side of a worker that is none, and the worker's.
pub(in crate::front) fn pair() -> (Link, Child, Channel) {
    let child = Program::new("sleep").arg("600").kill_on_drop(true).spawn().expect("it starts");
    let (process, identity) = Process::of_child(child.id().expect("it runs")).expect("it can be held");
    let record = serde_json::json!({ "id": "w", "domain": Domain::Node, "build": "b", "process": identity });
    let record = serde_json::from_value(record).expect("a record");
    let (ours, theirs) = Channel::pair().expect("a pair can be made");
    let theirs = Channel::new(theirs).expect("it can be used");
    (Link::new(Channel::new(ours).expect("it can be used"), process, record, 1), child, theirs)
}

/// How a worker ends that says this, sends a file with each, and listens to nothing.
async fn saying(reports: impl IntoIterator<Item = Report>, file: Option<BorrowedFd<'_>>) -> String {
    let (link, child, theirs) = pair();
    let reporting = async {
        for report in reports {
            theirs.send(&report, file.as_slice()).await.expect("it is sent");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        how = link.listen(Some(child), |_| true) => how,
        () = reporting => unreachable!("it does not end"),
    }
}

fn end_of(id: String) -> Report {
    Report::Exited(Ended { id, at: 0, exit: Exit::with_code(0) })
}

#[tokio::test]
async fn a_worker_cannot_fill_the_front_with_ends() {
    assert_eq!(saying([end_of("x".repeat(ID_BYTES_MAX + 1))], None).await, KILLED);
    assert_eq!(saying((0..).map(|number| end_of(number.to_string())), None).await, KILLED);
    let exit = Exit { message: "x".repeat(100_000), ..Exit::with_code(1) };
    assert_eq!(saying([Report::Exited(Ended { id: "a".to_owned(), at: 0, exit })], None).await, KILLED);
}

#[tokio::test]
async fn a_worker_says_only_what_it_was_asked() {
    assert_eq!(saying([Report::Done { number: 7, outcome: Ok(Answer::Nothing) }], None).await, KILLED);
    let file = tempfile::tempfile().expect("a file can be made");
    assert_eq!(saying([end_of("a".to_owned())], Some(file.as_fd())).await, KILLED);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_nothing_left_and_does_not_end_is_killed() {
    let (link, mut child, _theirs) = pair();
    link.must_end().await;
    assert_eq!(in_words(child.wait().await.expect("it can be waited for")), KILLED);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_let_go_of_a_container_is_killed() {
    let (link, mut child, _theirs) = pair();
    link.forget("a", 0).await;
    assert!(link.is_gone());
    assert_eq!(in_words(child.wait().await.expect("it can be waited for")), KILLED);
}

#[tokio::test]
async fn a_worker_lends_nothing_but_a_listening_socket() {
    let (link, child, theirs) = pair();
    let file = tempfile::tempfile().expect("a file can be made");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("it listens");
    let answering = async {
        for fd in [file.as_fd(), socket.as_fd()] {
            let Order { number, .. } =
                theirs.receive().await.expect("it arrives").expect("an order").parse().expect("an order");
            let report = Report::Done { number, outcome: Ok(Answer::Descriptor) };
            theirs.send(&report, &[fd]).await.expect("it is sent");
        }
        std::future::pending::<()>().await;
    };
    let borrowing = async {
        let refused = link.borrow_listener("a").await.expect_err("a file").to_string();
        assert_eq!(refused, "the worker sent something else than a socket that is listened on");
        link.borrow_listener("a").await.expect("a socket");
    };
    tokio::select! {
        biased;
        () = borrowing => {}
        how = link.listen(Some(child), |_| true) => panic!("{how}"),
        () = answering => unreachable!("it does not end"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_come_late_but_not_twice() {
    let (link, child, theirs) = pair();
    let done = |number| Report::Done { number, outcome: Ok(Answer::Nothing) };
    let talking = async {
        assert!(matches!(link.order(Command::Stats, &[]).await, Err(OrderError::Stuck)));
        theirs.send(&done(1), &[]).await.expect("it is sent");
        let second = done(2);
        let (outcome, sent) = tokio::join!(biased; link.order(Command::Stats, &[]), theirs.send(&second, &[]));
        assert!(outcome.is_ok() && sent.is_ok(), "the worker is listened to");
        theirs.send(&done(1), &[]).await.expect("it is sent");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        _killed = link.listen(Some(child), |_| true) => {}
        () = talking => unreachable!("it does not end"),
    }
}

#[tokio::test(start_paused = true)]
async fn orders_that_were_never_sent_wait_for_no_answer() {
    let (link, _child, theirs) = pair();
    let file = tempfile::tempfile().expect("a file can be made");
    let refused = link.order(Command::Stats, &vec![file.as_fd(); 300]).await;
    assert!(matches!(refused, Err(OrderError::Refused(_))), "so many cannot be sent");
    assert_eq!(link.waiting.lock().len(), 0);
    // The worker reads nothing, until there is no room for more.
    let ids = vec!["x".repeat(20_000)];
    let order = || link.order(Command::Acknowledge { ids: ids.clone() }, &[]);
    for number in 0..1000 {
        if number % 64 == 0 {
            // It is found out here whether there is room.
            tokio::task::yield_now().await;
        }
        assert!(order().now_or_never().is_none(), "it was given up");
    }
    assert!(matches!(order().await, Err(OrderError::Stuck)));
    let mut sent = 0;
    while tokio::time::timeout(PATIENCE, theirs.receive()).await.is_ok() {
        sent += 1;
    }
    assert!((2..1000).contains(&sent), "{sent}");
    assert_eq!(link.waiting.lock().len(), sent);
}
