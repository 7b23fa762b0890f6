//! A SOCK_SEQPACKET pair: a message is a datagram, so its descriptors belong to it and to nothing else. A message that
//! is too long for a datagram travels in a memory file, as one descriptor more.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use super::sent::Sent;

/// Longer than this goes into a memory file: the kernel's default for a socket's buffer is some 200 KiB.
const INLINE_BYTES: usize = 32 << 10;
/// The kernel refuses more in one message (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;
/// Nobody has a reason to send more; the other side may be hostile.
const LONG_BYTES_MAX: u64 = 64 << 20;

const INLINE: u8 = b'i';
const IN_FILE: u8 = b'f';

/// A message that came in.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) text: Vec<u8>,
    pub(crate) fds: Sent,
    /// It came in a memory file.
    pub(crate) is_long: bool,
}

impl Message {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.text).map_err(io::Error::from)
    }
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Two connected ends; the second is for a child's standard input.
    pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
    }

    /// Must be called within a tokio runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Channel> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an owned descriptor always answers with the same number and stays open until it is dropped, which the
        // registration outlives by nothing: it owns it.
        let registered = unsafe { AsyncFd::register(fd)? };
        Ok(Channel(registered))
    }

    /// Waits while the other side does not read: what is not sent is not lost, and the sender is held up.
    pub(crate) async fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let file;
        let mut all: Vec<BorrowedFd<'_>> = fds.to_vec();
        let (kind, inline) = if text.len() > INLINE_BYTES {
            file = in_file(&text)?;
            all.push(file.as_fd());
            (IN_FILE, &[][..])
        } else {
            (INLINE, text.as_slice())
        };
        if all.len() > FDS_MAX {
            let why = format!("{} descriptors in one message; at most {FDS_MAX} are possible", all.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let kind = [kind];
        let parts = [IoSlice::new(&kind), IoSlice::new(inline)];
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| send_now(fd.get_ref(), &parts, &all)) {
                Ok(sent) => return sent,
                Err(_would_block) => {}
            }
        }
    }

    /// The next message; none when the other side is gone.
    pub(crate) async fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            // Another side that never stops talking must not keep this thread from everything else.
            tokio::task::coop::consume_budget().await;
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| receive_now(fd.get_ref())) {
                Ok(message) => {
                    // One of these takes as long as many others.
                    if matches!(&message, Ok(Some(Message { is_long: true, .. }))) {
                        tokio::task::yield_now().await;
                    }
                    return message;
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// A message came, but not the descriptors with it, because this process has as many open files as it may.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

/// Waits on a blocking end, before there is a runtime.
pub(crate) fn receive_blocking(fd: &OwnedFd) -> io::Result<Option<Message>> {
    receive_now(fd)
}

fn send_now(fd: &OwnedFd, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("the buffer for descriptors is too small"));
    }
    rustix::net::sendmsg(fd, parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_now(fd: &OwnedFd) -> io::Result<Option<Message>> {
    let mut buffer = vec![0; 1 + INLINE_BYTES];
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let got = rustix::net::recvmsg(fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut fds = Sent::new(fds);
    // A datagram of ours is never empty.
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message was cut short"));
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    buffer.truncate(got.bytes);
    let (text, is_long) = match buffer[0] {
        INLINE => (buffer.split_off(1), false),
        IN_FILE => (out_of_file(&mut fds)?, true),
        other => return Err(io::Error::other(format!("a message of unknown kind {other}"))),
    };
    Ok(Some(Message { text, fds, is_long }))
}

fn in_file(text: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("message", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

/// Takes the text out of the last of `fds`. Reading a pipe, or a file of a file system that some process serves, may take
/// for ever, and so may asking what it is: only memory files are read, which are what has seals. Whether any is set does
/// not matter: workers of earlier builds do not seal theirs.
fn out_of_file(fds: &mut Sent) -> io::Result<Vec<u8>> {
    let missing = || io::Error::other("a long message came without its file");
    let file = fds.last().ok_or_else(missing)?;
    if rustix::fs::fcntl_get_seals(file).is_err() {
        return Err(io::Error::other("a long message came in something else than a memory file"));
    }
    let stat = rustix::fs::fstat(file)?;
    if u64::try_from(stat.st_size).is_ok_and(|bytes| bytes > LONG_BYTES_MAX) {
        return Err(io::Error::other(format!(
            "a message of {} bytes; at most {LONG_BYTES_MAX} are read",
            stat.st_size
        )));
    }
    let file = fds.pop().ok_or_else(missing)?;
    let mut text = Vec::new();
    // It may grow while it is read.
    File::from(file).take(LONG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::*;

    /// A message that says that its text is in `file`.
    fn long(file: OwnedFd) -> Result<usize, String> {
        let (one, other) = Channel::pair().expect("a pair can be made");
        send_now(&one, &[IoSlice::new(&[IN_FILE])], &[file.as_fd()]).expect("it is sent");
        let received = receive_blocking(&other).map_err(|error| error.to_string())?;
        Ok(received.expect("it is there").text.len())
    }

    #[test]
    fn only_memory_files_are_read_and_only_whole_ones() {
        let (pipe, _writer) = rustix::pipe::pipe().expect("a pipe can be made");
        let elsewhere = || Err("a long message came in something else than a memory file".to_owned());
        assert_eq!(long(pipe), elsewhere());
        let (socket, _other) = Channel::pair().expect("a pair can be made");
        assert_eq!(long(socket), elsewhere());
        // Of a file system that answers when it likes.
        assert_eq!(long(File::open("/proc/self/stat").expect("it is there").into()), elsewhere());
        let too_long = File::from(in_file(b"").expect("it can be made"));
        too_long.set_len(LONG_BYTES_MAX + 1).expect("it takes no memory");
        assert_eq!(long(too_long.into()), Err("a message of 67108865 bytes; at most 67108864 are read".to_owned()));
        assert_eq!(long(in_file(&[b'x'; 100_000]).expect("it can be made")), Ok(100_000));
    }

    #[test]
    fn nobody_is_asked_what_a_file_is() {
        let calls = [libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_newfstatat, libc::SYS_statx];
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let rules = calls.map(|call| (call, Vec::new())).into();
        let arch = std::env::consts::ARCH.try_into().expect("a known one");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
        let filter: BpfProgram = filter.try_into().expect("a filter");
        let strange = File::open("/proc/self/stat").expect("it is there");
        let received = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter).expect("it holds for this thread");
            long(strange.into())
        });
        let elsewhere = "a long message came in something else than a memory file".to_owned();
        assert_eq!(received.join().expect("it does not panic"), Err(elsewhere));
    }

    #[test]
    fn what_nobody_takes_is_closed_by_another_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        let runtime = runtime.expect("it can be made");
        let _here = runtime.enter();
        let (busy, over) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || over.recv());
        // Well said, of no kind, of no memory file, without a word, too long.
        let said: [&[u8]; 5] = [b"i1", b"x", b"f", b"", &[INLINE; 2 + INLINE_BYTES]];
        let readers = said.map(|text| {
            let (reader, writer) = rustix::pipe::pipe().expect("a pipe can be made");
            rustix::io::ioctl_fionbio(&reader, true).expect("it need not wait");
            let (one, other) = Channel::pair().expect("a pair can be made");
            send_now(&one, &[IoSlice::new(text)], &[writer.as_fd()]).expect("it is sent");
            drop(receive_blocking(&other));
            reader
        });
        let is_closed = |reader: &OwnedFd| rustix::io::read(reader, &mut [0_u8; 1]) == Ok(0);
        assert!(!readers.iter().any(is_closed), "the other thread is not free yet");
        drop(busy);
        runtime.block_on(runtime.spawn_blocking(|| ())).expect("it does not panic");
        assert!(readers.iter().all(is_closed));
    }

    #[tokio::test]
    async fn a_side_that_always_has_something_to_say_leaves_time_for_others() {
        let (one, other) = Channel::pair().expect("a pair can be made");
        for _ in 0..200 {
            send_now(&one, &[IoSlice::new(&[INLINE]), IoSlice::new(b"1")], &[]).expect("there is room");
        }
        let other = Channel::new(other).expect("it can be used");
        let all = async {
            for _ in 0..200 {
                other.receive().await.expect("it arrives").expect("it is there");
            }
        };
        let mut all = std::pin::pin!(all);
        assert!(futures::poll!(&mut all).is_pending(), "it is the turn of others");
        all.await;
    }
}
