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
    pub(crate) fds: Vec<OwnedFd>,
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
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| receive_now(fd.get_ref())) {
                Ok(message) => return message,
                Err(_would_block) => {}
            }
        }
    }
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
    // A datagram of ours is never empty.
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        // Too many open files is what makes the kernel drop descriptors.
        return Err(io::Error::other("a message was cut short; is the limit of open files reached?"));
    }
    buffer.truncate(got.bytes);
    let text = match buffer[0] {
        INLINE => buffer.split_off(1),
        IN_FILE => {
            let file = fds.pop().ok_or_else(|| io::Error::other("a long message came without its file"))?;
            out_of_file(file)?
        }
        other => return Err(io::Error::other(format!("a message of unknown kind {other}"))),
    };
    Ok(Some(Message { text, fds }))
}

fn in_file(text: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("message", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

fn out_of_file(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(file).take(LONG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
