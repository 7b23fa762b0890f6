//! Which system calls a worker and a compiler may make. What is not listed answers ENOSYS, so that the C library takes
//! its fallbacks; among those are exec, ptrace, mount, bpf, io_uring, keyctl, perf, namespaces, modules, setuid, kill.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Runs guests: files below descriptors it has, sockets of the internet families, threads.
    Worker,
    /// Reads one descriptor, writes another, computes.
    Compiler,
}

/// What any Rust program needs to compute and to end.
const COMPUTING: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// What a worker needs besides: files, waiting, connections.
const SERVING: &[i64] = &[
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_utimensat,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_fchdir,
    libc::SYS_getcwd,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// Older forms that only x86-64 still has and some C libraries still use.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_time, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

pub(super) fn program(calls: Calls) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let listed = match calls {
        Calls::Worker => [COMPUTING, OLD, SERVING].concat(),
        Calls::Compiler => [COMPUTING, OLD].concat(),
    };
    rules.extend(listed.into_iter().map(|call| (call, Vec::new())));
    // A thread, but no process in a namespace of its own.
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let threads_only = masked(0, (namespaces | libc::CLONE_THREAD) as u64, libc::CLONE_THREAD as u64)?;
    rules.insert(libc::SYS_clone, vec![rule(vec![threads_only])?]);
    // Abort signals itself. Another process's threads have other users.
    rules.insert(libc::SYS_tgkill, vec![rule(vec![equal(0, u64::from(std::process::id()))?])?]);
    // Reading a limit is how the C library learns a stack's size; setting one is not needed.
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![equal64(2, 0)?])?]);
    // Names of threads and of mappings.
    const PR_SET_VMA: u64 = 0x5356_4d41;
    rules.insert(
        libc::SYS_prctl,
        vec![rule(vec![equal(0, libc::PR_SET_NAME as u64)?])?, rule(vec![equal(0, PR_SET_VMA)?])?],
    );
    match calls {
        Calls::Worker => {
            // A thread may say for how long it runs at a time, and put itself behind others. What is asked for a filter cannot
            // see: limits of nothing, and having no capability, keep it from real time.
            for call in [libc::SYS_sched_getattr, libc::SYS_sched_setattr] {
                rules.insert(call, vec![rule(vec![equal(0, 0)?])?]);
            }
            // A thread may go elsewhere without the others, and into no namespace.
            rules.insert(libc::SYS_unshare, vec![rule(vec![equal64(0, libc::CLONE_FS as u64)?])?]);
            let family = |family: i32| rule(vec![equal(0, family as u64)?]);
            rules.insert(libc::SYS_socket, vec![family(libc::AF_INET)?, family(libc::AF_INET6)?]);
            rules.insert(libc::SYS_socketpair, vec![family(libc::AF_UNIX)?]);
            // Who closes such a socket last waits, and that may be the front, to which it was sent.
            let no_socket_option = rule(vec![differs(1, libc::SOL_SOCKET as u64)?])?;
            let no_linger = rule(vec![differs(2, libc::SO_LINGER as u64)?])?;
            rules.insert(libc::SYS_setsockopt, vec![no_socket_option, no_linger]);
            let request = |request: u64| rule(vec![equal(1, request)?]);
            rules.insert(
                libc::SYS_ioctl,
                vec![request(libc::FIONBIO)?, request(libc::FIOCLEX)?, request(libc::FIONREAD)?],
            );
        }
        Calls::Compiler => {}
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn differs(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn equal64(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}
