//! A terminal for a command: the kernel's, so that a client's raw terminal gets its echo, its line editing and its line
//! ends. Guests have no way to change its mode.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use coracle_cri::streaming::TerminalSize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a client types to interrupt. The terminal takes it out; the signal it would send reaches nobody.
pub(super) const INTERRUPT: u8 = 3;

/// The client's side.
#[derive(Debug)]
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// The client's side, and the command's.
    #[allow(unsafe_code)]
    pub(super) fn open() -> io::Result<(Terminal, OwnedFd)> {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: no pointer is passed; the descriptor that comes back is nobody else's.
        let master = unsafe {
            let master = libc::posix_openpt(flags | libc::O_NONBLOCK);
            if master < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(master)
        };
        // SAFETY: the descriptor is open, and no pointer is passed; what comes back is a new descriptor.
        let command = unsafe {
            if libc::unlockpt(master.as_raw_fd()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let command = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags);
            if command < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(command)
        };
        // SAFETY: an owned descriptor always answers with the same number and stays open until it is dropped, which the
        // registration outlives by nothing: it owns it.
        let registered = unsafe { AsyncFd::register(master)? };
        Ok((Terminal(registered), command))
    }

    #[allow(unsafe_code)]
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the pointer is to the structure that this call reads.
        let set = unsafe { libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// 0 when the command's side is closed.
    pub(super) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *into)?)).await;
        match read {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// The client has nothing more to type: as if it had typed the end of the input.
    pub(super) async fn end_input(&self) -> io::Result<()> {
        const END: u8 = 4;
        self.write(&[END]).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn what_is_typed_is_echoed_and_lines_end_as_a_terminal_ends_them() {
        let (terminal, command) = Terminal::open().expect("a terminal can be made");
        terminal.resize(TerminalSize { width: 80, height: 24 }).expect("it has a size");
        let mut command = File::from(command);
        terminal.write(b"abc\x7fd\r").await.expect("it can be written");
        let mut line = [0; 16];
        let got = command.read(&mut line).expect("a line is there");
        assert_eq!(&line[..got], b"abd\n");
        terminal.end_input().await.expect("it can be written");
        assert_eq!(command.read(&mut line).expect("the end is there"), 0);
        command.write_all(b"answer\n").expect("it can be written");
        drop(command);
        let mut seen = Vec::new();
        let mut piece = [0; 64];
        loop {
            match terminal.read(&mut piece).await.expect("it can be read") {
                0 => break,
                got => seen.extend_from_slice(&piece[..got]),
            }
        }
        let seen = String::from_utf8(seen).expect("text");
        assert_eq!(seen, "abc\x08 \x08d\r\nanswer\r\n");
    }
}
