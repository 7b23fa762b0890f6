//! Tries what WASI 0.1 promises, function by function, in the directory `/data`, and prints a line for each behaviour:
//! `NAME: yes`, or `NAME: no` with what came instead.

use wasi::*;

type Tried = std::result::Result<(), String>;

fn main() {
    let data = preopen("/data");
    for (name, behaviour) in BEHAVIOURS {
        match behaviour(data) {
            Ok(()) => println!("{name}: yes"),
            Err(instead) => println!("{name}: no, {instead}"),
        }
    }
}

const BEHAVIOURS: &[(&str, fn(Fd) -> Tried)] = &[
    ("args_get", |_| same(std::env::args().skip(1).collect::<Vec<_>>(), vec!["one".to_owned(), "two".to_owned()])),
    ("environ_get", |_| same(std::env::var("GREETING").ok(), Some("good day".to_owned()))),
    ("clock_time_get, monotonic", |_| clock(CLOCKID_MONOTONIC)),
    ("clock_time_get, realtime", |_| clock(CLOCKID_REALTIME)),
    ("clock_time_get, process and thread time", |_| {
        clock(CLOCKID_PROCESS_CPUTIME_ID).and_then(|()| clock(CLOCKID_THREAD_CPUTIME_ID))
    }),
    ("clock_res_get", |_| does(unsafe { clock_res_get(CLOCKID_MONOTONIC) }).and_then(|ns| holds(ns > 0, "a resolution"))),
    ("random_get", |_| {
        let mut bytes = [0; 256];
        does(unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) })?;
        does(unsafe { random_get(bytes.as_mut_ptr(), 0) })?;
        holds(bytes.iter().any(|byte| *byte != 0), "something random")
    }),
    ("sched_yield", |_| does(unsafe { sched_yield() })),
    ("poll_oneoff, a clock", |_| polled(timer())),
    ("poll_oneoff, writing to standard output", |_| polled(writable(1))),
    ("fd_write to a descriptor that is not there", |_| fails(write(99, b"x"), ERRNO_BADF)),
    ("fd_read, fd_write, fd_seek, fd_tell", |data| {
        let file = fresh(data, "file")?;
        same(does(write(file, b"0123456789"))?, 10)?;
        same(does(unsafe { fd_tell(file) })?, 10)?;
        same(does(unsafe { fd_seek(file, -4, WHENCE_END) })?, 6)?;
        same(read(file)?, b"6789".to_vec())?;
        fails(unsafe { fd_seek(file, -20, WHENCE_CUR) }, ERRNO_INVAL)
    }),
    ("fd_pread, fd_pwrite", |data| {
        let file = fresh(data, "file")?;
        // Of several pieces the first may be all that is written.
        same(does(unsafe { fd_pwrite(file, &[Ciovec { buf: b"abcd".as_ptr(), buf_len: 4 }], 3) })?, 4)?;
        same(does(unsafe { fd_tell(file) })?, 0)?;
        let mut bytes = [0; 7];
        let into = Iovec { buf: bytes.as_mut_ptr(), buf_len: 7 };
        same(does(unsafe { fd_pread(file, &[into], 0) })?, 7)?;
        same(bytes, *b"\0\0\0abcd")
    }),
    ("fd_fdstat_set_flags, append", |data| {
        let file = fresh(data, "file")?;
        does(write(file, b"begin"))?;
        does(unsafe { fd_fdstat_set_flags(file, FDFLAGS_APPEND) })?;
        does(unsafe { fd_seek(file, 0, WHENCE_SET) })?;
        does(write(file, b"end"))?;
        same(does(unsafe { fd_filestat_get(file) })?.size, 8)
    }),
    ("fd_fdstat_set_rights", |data| {
        let file = fresh(data, "file")?;
        does(unsafe { fd_fdstat_set_rights(file, RIGHTS_FD_READ, 0) })
    }),
    ("fd_advise", |data| does(unsafe { fd_advise(fresh(data, "file")?, 0, 100, ADVICE_SEQUENTIAL) })),
    ("fd_allocate", |data| does(unsafe { fd_allocate(fresh(data, "file")?, 0, 100) })),
    ("fd_datasync, fd_sync", |data| {
        let file = fresh(data, "file")?;
        does(unsafe { fd_datasync(file) }).and_then(|()| does(unsafe { fd_sync(file) }))
    }),
    ("fd_filestat_set_size", |data| {
        let file = fresh(data, "file")?;
        does(unsafe { fd_filestat_set_size(file, 100) })?;
        same(does(unsafe { fd_filestat_get(file) })?.size, 100)?;
        does(unsafe { fd_filestat_set_size(file, 10) })?;
        same(does(unsafe { fd_filestat_get(file) })?.size, 10)
    }),
    ("fd_filestat_set_times, path_filestat_set_times", |data| {
        let file = fresh(data, "file")?;
        does(unsafe { fd_filestat_set_times(file, 1_000_000_000, 2_000_000_000, FSTFLAGS_ATIM | FSTFLAGS_MTIM) })?;
        same(does(unsafe { fd_filestat_get(file) })?.mtim, 2_000_000_000)?;
        does(unsafe { path_filestat_set_times(data, 0, "file", 0, 3_000_000_000, FSTFLAGS_MTIM) })?;
        same(stat(data, "file")?.mtim, 3_000_000_000)?;
        let both = FSTFLAGS_MTIM | FSTFLAGS_MTIM_NOW;
        fails(unsafe { fd_filestat_set_times(file, 0, 0, both) }, ERRNO_INVAL)
    }),
    ("fd_readdir, from any entry on", |data| {
        does(unsafe { path_create_directory(data, "listed") })?;
        let dir = directory(data, "listed")?;
        for at in 0..20 {
            fresh(dir, &format!("entry-{at}"))?;
        }
        let all = listed(dir, 0)?;
        same(all.len(), 22)?;
        let later = listed(dir, all[9].0)?;
        same(later.iter().map(|one| &one.1).collect::<Vec<_>>(), all[10..].iter().map(|one| &one.1).collect())
    }),
    ("fd_renumber, fd_close", |data| {
        let (one, two) = (fresh(data, "file")?, fresh(data, "other")?);
        does(unsafe { fd_renumber(one, two) })?;
        fails(unsafe { fd_fdstat_get(one) }, ERRNO_BADF)?;
        does(unsafe { fd_close(two) })?;
        fails(unsafe { fd_close(two) }, ERRNO_BADF)
    }),
    ("path_open, create, exclusive, truncate", |data| {
        does(write(fresh(data, "file")?, b"text"))?;
        fails(open(data, "file", OFLAGS_CREAT | OFLAGS_EXCL, RIGHTS_FD_READ), ERRNO_EXIST)?;
        fails(open(data, "missing", 0, RIGHTS_FD_READ), ERRNO_NOENT)?;
        does(open(data, "file", OFLAGS_TRUNC, RIGHTS_FD_WRITE))?;
        same(stat(data, "file")?.size, 0)
    }),
    ("path_open, only a directory where one is asked for", |data| {
        let file = fresh(data, "file")?;
        fails(open(data, "file", OFLAGS_DIRECTORY, RIGHTS_FD_READ), ERRNO_NOTDIR)?;
        fails(open(file, "below", OFLAGS_CREAT, RIGHTS_FD_READ), ERRNO_NOTDIR)
    }),
    ("path_create_directory, path_remove_directory", |data| {
        does(unsafe { path_create_directory(data, "dir") })?;
        fails(unsafe { path_create_directory(data, "dir") }, ERRNO_EXIST)?;
        fresh(directory(data, "dir")?, "inside")?;
        fails(unsafe { path_remove_directory(data, "dir") }, ERRNO_NOTEMPTY)?;
        fails(unsafe { path_unlink_file(data, "dir") }, ERRNO_ISDIR)?;
        does(unsafe { path_unlink_file(data, "dir/inside") })?;
        does(unsafe { path_remove_directory(data, "dir") })
    }),
    ("path_remove_directory, with a slash behind", |data| {
        does(unsafe { path_create_directory(data, "slash") })?;
        does(unsafe { path_remove_directory(data, "slash/") })
    }),
    ("path_unlink_file, not with a slash behind", |data| {
        fresh(data, "file")?;
        fails(unsafe { path_unlink_file(data, "file/") }, ERRNO_NOTDIR)?;
        does(unsafe { path_unlink_file(data, "file") })?;
        fails(unsafe { path_unlink_file(data, "file") }, ERRNO_NOENT)
    }),
    ("path_rename, over a file, not over a full directory", |data| {
        does(write(fresh(data, "one")?, b"one"))?;
        fresh(data, "two")?;
        does(unsafe { path_rename(data, "one", data, "two") })?;
        same(stat(data, "two")?.size, 3)?;
        does(unsafe { path_create_directory(data, "from") })?;
        does(unsafe { path_create_directory(data, "to") })?;
        fresh(directory(data, "to")?, "inside")?;
        fails(unsafe { path_rename(data, "from", data, "to") }, ERRNO_NOTEMPTY)
    }),
    ("path_link", |data| {
        let file = fresh(data, "linked")?;
        does(unsafe { path_link(data, 0, "linked", data, "name") })?;
        let (one, two) = (does(unsafe { fd_filestat_get(file) })?, stat(data, "name")?);
        same((one.ino, one.nlink), (two.ino, 2))?;
        fails(unsafe { path_link(data, 0, "linked", data, "name") }, ERRNO_EXIST)
    }),
    ("path_symlink, path_readlink", |data| {
        does(write(fresh(data, "target")?, b"text"))?;
        does(unsafe { path_symlink("target", data, "link") })?;
        let mut bytes = [0; 16];
        let length = does(unsafe { path_readlink(data, "link", bytes.as_mut_ptr(), bytes.len()) })?;
        same(&bytes[..length], &b"target"[..])?;
        let followed = does(unsafe { path_filestat_get(data, LOOKUPFLAGS_SYMLINK_FOLLOW, "link") })?;
        same((followed.size, stat(data, "link")?.filetype == FILETYPE_SYMBOLIC_LINK), (4, true))
    }),
    ("path_symlink, a loop is told", |data| {
        does(unsafe { path_symlink("loop", data, "loop") })?;
        let opened = unsafe { path_open(data, LOOKUPFLAGS_SYMLINK_FOLLOW, "loop", 0, RIGHTS_FD_READ, 0, 0) };
        fails(opened, ERRNO_LOOP)
    }),
    ("path_symlink, absolute", |data| does(unsafe { path_symlink("/etc", data, "absolute") })),
    ("path_open, above the directory", |data| does(open(data, "../above", OFLAGS_CREAT, RIGHTS_FD_WRITE)).map(drop)),
    ("path_open, writing where only reading is allowed", |_| {
        does(open(preopen("/fixed"), "new", OFLAGS_CREAT, RIGHTS_FD_WRITE)).map(drop)
    }),
    ("path_open, a zero in the name", |data| does(open(data, "fi\0le", OFLAGS_CREAT, RIGHTS_FD_WRITE)).map(drop)),
    ("fd_fdstat_get, no terminal", |_| {
        same(does(unsafe { fd_fdstat_get(1) })?.fs_filetype == FILETYPE_CHARACTER_DEVICE, false)
    }),
    ("proc_raise", |_| does(unsafe { proc_raise(SIGNAL_CONT) })),
    ("sock_accept, sock_recv, sock_send", |_| does(unsafe { sock_accept(1, 0) }).map(drop)),
    ("sock_shutdown", |_| does(unsafe { sock_shutdown(1, SDFLAGS_RD) })),
];

fn does<T>(outcome: std::result::Result<T, Errno>) -> std::result::Result<T, String> {
    outcome.map_err(|errno| errno.name().to_owned())
}

fn fails<T>(outcome: std::result::Result<T, Errno>, wanted: Errno) -> Tried {
    match outcome {
        Ok(_) => Err(format!("it succeeds where {} is due", wanted.name())),
        Err(errno) if errno == wanted => Ok(()),
        Err(errno) => Err(format!("{} where {} is due", errno.name(), wanted.name())),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Tried {
    holds(got == wanted, &format!("{wanted:?} rather than {got:?}"))
}

fn holds(held: bool, what: &str) -> Tried {
    held.then_some(()).ok_or_else(|| format!("there should be {what}"))
}

fn preopen(wanted: &str) -> Fd {
    let named = |fd: Fd| {
        let length = unsafe { fd_prestat_get(fd).ok()?.u.dir.pr_name_len };
        let mut name = vec![0; length];
        unsafe { fd_prestat_dir_name(fd, name.as_mut_ptr(), length).ok()? };
        Some((fd, name))
    };
    let found = (3..20).filter_map(named).find(|(_, name)| name == wanted.as_bytes());
    found.map(|(fd, _)| fd).expect("the directory is mounted")
}

fn open(dir: Fd, path: &str, how: Oflags, rights: Rights) -> std::result::Result<Fd, Errno> {
    unsafe { path_open(dir, 0, path, how, rights, 0, 0) }
}

/// An empty file to be read and written.
fn fresh(dir: Fd, path: &str) -> std::result::Result<Fd, String> {
    does(open(dir, path, OFLAGS_CREAT | OFLAGS_TRUNC, RIGHTS_FD_READ | RIGHTS_FD_WRITE | RIGHTS_FD_SEEK))
}

fn directory(dir: Fd, path: &str) -> std::result::Result<Fd, String> {
    does(open(dir, path, OFLAGS_DIRECTORY, RIGHTS_FD_READ | RIGHTS_FD_READDIR))
}

fn stat(dir: Fd, path: &str) -> std::result::Result<Filestat, String> {
    does(unsafe { path_filestat_get(dir, 0, path) })
}

fn write(fd: Fd, bytes: &[u8]) -> std::result::Result<Size, Errno> {
    unsafe { fd_write(fd, &[Ciovec { buf: bytes.as_ptr(), buf_len: bytes.len() }]) }
}

fn read(fd: Fd) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![0; 100];
    let length = does(unsafe { fd_read(fd, &[Iovec { buf: bytes.as_mut_ptr(), buf_len: 100 }]) })?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Entries with the cookie that leads on from each, read through a small buffer.
fn listed(dir: Fd, from: Dircookie) -> std::result::Result<Vec<(Dircookie, Vec<u8>)>, String> {
    let (mut entries, mut cookie) = (Vec::new(), from);
    loop {
        let mut bytes = vec![0; 200];
        let length = does(unsafe { fd_readdir(dir, bytes.as_mut_ptr(), bytes.len(), cookie) })?;
        let mut rest = &bytes[..length];
        let head = std::mem::size_of::<Dirent>();
        while rest.len() >= head {
            let entry: Dirent = unsafe { std::ptr::read_unaligned(rest.as_ptr().cast()) };
            let end = head + entry.d_namlen as usize;
            if rest.len() < end {
                break;
            }
            entries.push((entry.d_next, rest[head..end].to_vec()));
            cookie = entry.d_next;
            rest = &rest[end..];
        }
        if length < bytes.len() {
            return Ok(entries);
        }
    }
}

fn clock(id: Clockid) -> Tried {
    let first = does(unsafe { clock_time_get(id, 0) })?;
    let second = does(unsafe { clock_time_get(id, 0) })?;
    holds(first > 0 && second >= first, "a time that goes on")
}

fn timer() -> Subscription {
    let clock = SubscriptionClock { id: CLOCKID_MONOTONIC, timeout: 1_000_000, precision: 0, flags: 0 };
    Subscription { userdata: 7, u: SubscriptionU { tag: EVENTTYPE_CLOCK.raw(), u: SubscriptionUU { clock } } }
}

fn writable(fd: Fd) -> Subscription {
    let fd_write = SubscriptionFdReadwrite { file_descriptor: fd };
    Subscription { userdata: 7, u: SubscriptionU { tag: EVENTTYPE_FD_WRITE.raw(), u: SubscriptionUU { fd_write } } }
}

fn polled(what: Subscription) -> Tried {
    let mut event = std::mem::MaybeUninit::<Event>::zeroed();
    let count = does(unsafe { poll_oneoff(&what, event.as_mut_ptr(), 1) })?;
    let event = unsafe { event.assume_init() };
    same((count, event.userdata, event.error == ERRNO_SUCCESS), (1, 7, true))
}
