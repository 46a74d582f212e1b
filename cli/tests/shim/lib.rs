//! A library for `LD_PRELOAD` that ends the process with SIGKILL at a chosen write: the n-th call, on any thread, that changes
//! a file or makes a change durable. For the crash campaign (`crash.rs`); part of no program.
//!
//! `CRASH_AT=n` says which call, `CRASH_HOW` whether the process dies `before` it, `half` way through it (a write is cut in two)
//! or `after` it. `CRASH_COUNT=file` counts the calls into a file instead.
#![expect(
    unsafe_code,
    reason = "symbols of the C library are replaced; every body makes the system call it stands for"
)]
#![cfg(target_os = "linux")]

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_char, c_int, c_long, c_void, mode_t, off64_t, size_t, ssize_t};

static CALLS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, PartialEq)]
enum How {
    Before,
    Half,
    After,
}

struct Plan {
    at: u64,
    how: How,
    /// Descriptor of the file that counts, or -1.
    count: c_int,
}

fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: getenv takes a C string and returns null or one that lives on; nobody here changes the environment.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let number = |v: &CStr| v.to_str().ok().and_then(|v| v.parse().ok());
        let how = match variable(c"CRASH_HOW").map(CStr::to_bytes) {
            Some(b"half") => How::Half,
            Some(b"after") => How::After,
            _ => How::Before,
        };
        let count = variable(c"CRASH_COUNT").map_or(-1, |path| {
            // SAFETY: a path and flags as open(2) takes them.
            unsafe {
                libc::syscall(
                    libc::SYS_openat,
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    libc::O_CREAT | libc::O_RDWR,
                    0o600,
                ) as c_int
            }
        });
        Plan { at: variable(c"CRASH_AT").and_then(number).unwrap_or(0), how, count }
    })
}

fn die() -> ! {
    // SAFETY: getpid and kill have no preconditions; SIGKILL does not return.
    unsafe {
        libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGKILL);
    }
    loop {
        std::hint::spin_loop();
    }
}

/// Whether a descriptor is a file on a disk.
fn regular(fd: c_int) -> bool {
    // SAFETY: a zeroed stat is a valid place for fstat to write to.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &raw mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Counts a call; makes it, or dies before, in the middle of or after it. `half` does part of it, where that can be.
fn change(call: impl Fn() -> c_long, half: impl Fn() -> c_long) -> c_long {
    let plan = plan();
    let n = CALLS.fetch_add(1, Ordering::SeqCst) + 1;
    if plan.count >= 0 {
        // SAFETY: eight readable bytes.
        unsafe {
            libc::syscall(libc::SYS_pwrite64, plan.count, n.to_le_bytes().as_ptr(), 8usize, 0i64);
        }
    }
    if n != plan.at {
        return call();
    }
    match plan.how {
        How::Before => {}
        How::Half => {
            half();
        }
        How::After => {
            call();
        }
    }
    die()
}

/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, n: size_t) -> ssize_t {
    // SAFETY: the caller's own arguments, or the first half of them.
    let call = |n: size_t| unsafe { libc::syscall(libc::SYS_write, fd, buffer, n) };
    if !regular(fd) {
        return call(n) as ssize_t;
    }
    change(|| call(n), || call(n / 2)) as ssize_t
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, n: size_t, at: off64_t) -> ssize_t {
    // SAFETY: the caller's own arguments, or the first half of them.
    let call = |n: size_t| unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, n, at) };
    change(|| call(n), || call(n / 2)) as ssize_t
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, n: size_t, at: off64_t) -> ssize_t {
    // SAFETY: as for the caller.
    unsafe { pwrite64(fd, buffer, n, at) }
}

/// # Safety
/// As fsync(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: the caller's own argument.
    change(|| unsafe { libc::syscall(libc::SYS_fsync, fd) }, || 0) as c_int
}

/// # Safety
/// As fdatasync(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: the caller's own argument.
    change(|| unsafe { libc::syscall(libc::SYS_fdatasync, fd) }, || 0) as c_int
}

/// # Safety
/// As ftruncate(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, n: off64_t) -> c_int {
    // SAFETY: the caller's own arguments.
    change(|| unsafe { libc::syscall(libc::SYS_ftruncate, fd, n) }, || 0) as c_int
}

/// # Safety
/// As rename(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's own arguments.
    let call = || unsafe { libc::syscall(libc::SYS_renameat, libc::AT_FDCWD, from, libc::AT_FDCWD, to) };
    change(call, || 0) as c_int
}

/// # Safety
/// As unlink(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's own argument.
    change(|| unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) }, || 0) as c_int
}

/// # Safety
/// As mkdir(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's own arguments.
    change(|| unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) }, || 0) as c_int
}
