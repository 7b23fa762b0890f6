//! Those who listen to a container's output beside its log. They get what is written from the moment they come, as it is
//! written. A listener whose pipe is full is let go, so that the guest never waits for one.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::log::Stream;

/// For one container.
const LISTENERS_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Taps {
    /// Most containers never have one, and a guest that writes should not pay for a lock.
    any: AtomicBool,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Listener {
    fn of(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Taps {
    /// The writing ends of pipes.
    pub(super) fn add(&self, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Result<(), String> {
        for fd in [&stdout, &stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true).map_err(|error| format!("cannot use a descriptor: {error}"))?;
        }
        let mut listeners = self.listeners.lock();
        if listeners.len() >= LISTENERS_MAX {
            // Some may be gone without the container having written anything since.
            listeners.retain(|listener| [&listener.stdout, &listener.stderr].into_iter().flatten().any(is_read));
        }
        if listeners.len() >= LISTENERS_MAX {
            return Err(format!("{LISTENERS_MAX} clients are attached to the container, and more are not allowed"));
        }
        listeners.push(Listener { stdout, stderr });
        self.any.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn offer(&self, stream: Stream, bytes: &[u8]) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut listeners = self.listeners.lock();
        listeners.retain_mut(|listener| match listener.of(stream) {
            Some(fd) => write_all(fd, bytes),
            None => true,
        });
        self.any.store(!listeners.is_empty(), Ordering::Relaxed);
    }
}

/// False when it cannot take everything now.
fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(_full_or_closed) => return false,
        }
    }
    true
}

fn is_read(fd: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut polled, Some(&now)) {
        Ok(_) => !polled[0].revents().intersects(rustix::event::PollFlags::ERR | rustix::event::PollFlags::HUP),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (ours, theirs) = rustix::pipe::pipe().expect("a pipe can be made");
        (ours.into(), theirs)
    }

    #[test]
    fn listeners_get_the_streams_they_asked_for_from_when_they_came() {
        let taps = Taps::default();
        let (mut out, theirs) = pipe();
        taps.offer(Stream::Stdout, b"before ");
        taps.add(Some(theirs), None).expect("there is room");
        taps.offer(Stream::Stdout, b"after ");
        taps.offer(Stream::Stderr, b"elsewhere ");
        drop(taps);
        let mut text = String::new();
        out.read_to_string(&mut text).expect("it is text");
        assert_eq!(text, "after ");
    }

    #[test]
    fn one_that_does_not_read_is_let_go_and_the_others_stay() {
        let taps = Taps::default();
        let ((mut slow, to_slow), (mut quick, to_quick)) = (pipe(), pipe());
        taps.add(Some(to_slow), None).expect("there is room");
        taps.add(Some(to_quick), None).expect("there is room");
        let mut got = 0;
        let mut piece = vec![0; 8192];
        for _ in 0..100 {
            taps.offer(Stream::Stdout, &[b'x'; 8192]);
            got += quick.read(&mut piece).expect("it can be read");
        }
        assert_eq!(got, 100 * 8192);
        let mut all = Vec::new();
        let _ = slow.read_to_end(&mut all).expect("it ends although the container goes on");
        assert!(all.len() < 100 * 8192);
    }

    #[test]
    fn places_of_those_who_left_are_given_again() {
        let taps = Taps::default();
        let mut readers = Vec::new();
        for _ in 0..LISTENERS_MAX {
            let (ours, theirs) = pipe();
            readers.push(ours);
            taps.add(Some(theirs), None).expect("there is room");
        }
        assert!(taps.add(Some(pipe().1), None).is_err_and(|why| why.contains("more are not allowed")));
        readers.clear();
        assert!(taps.add(Some(pipe().1), None).is_ok());
    }
}
