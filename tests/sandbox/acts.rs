//! What would code do that got hold of the daemon? Each act is one thing that the daemon has no reason to do, and that
//! succeeds where nothing stands against it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::ptr::null;

use io_uring::{IoUring, opcode, types};

/// What the acts are done to.
pub struct Scene {
    /// The share's root, as the daemon has it.
    pub share: RawFd,
    /// A directory outside, opened before there were any walls. It has the files `secret` and `victim`.
    pub outside: OwnedFd,
    /// A program outside.
    pub program: PathBuf,
    /// Another process of the same user.
    pub other: i32,
    /// A port of 127.0.0.1 that listens, and an abstract unix socket of the same number.
    pub port: u16,
}

/// An act and its name.
pub type Act = (&'static str, fn(&Scene) -> io::Result<()>);

pub const ACTS: &[Act] = &[
    ("open-absolute", |_| open(libc::AT_FDCWD, c"/etc/passwd", libc::O_RDONLY)),
    ("open-upwards", |scene| open(scene.share, c"../../../../../../../../etc/passwd", libc::O_RDONLY)),
    ("open-by-descriptor", |scene| open(scene.outside.as_raw_fd(), c"secret", libc::O_RDONLY)),
    ("list-by-descriptor", |scene| open(scene.outside.as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY)),
    ("write-outside", |scene| open(scene.outside.as_raw_fd(), c"victim", libc::O_WRONLY | libc::O_TRUNC)),
    ("create-outside", |scene| open(scene.outside.as_raw_fd(), c"made", libc::O_WRONLY | libc::O_CREAT)),
    ("mkdir-outside", |scene| call(libc::SYS_mkdirat, [fd(&scene.outside), text(c"made"), 0o700, 0, 0])),
    ("remove-outside", |scene| call(libc::SYS_unlinkat, [fd(&scene.outside), text(c"victim"), 0, 0, 0])),
    ("move-out", |scene| rename(scene.share, c"inside", scene.outside.as_raw_fd(), c"moved")),
    ("move-in", |scene| rename(scene.outside.as_raw_fd(), c"victim", scene.share, c"moved")),
    ("write-inside", |scene| open(scene.share, c"inside", libc::O_WRONLY)),
    ("create-inside", |scene| open(scene.share, c"made", libc::O_WRONLY | libc::O_CREAT)),
    ("execute", execute),
    ("signal", |scene| call(libc::SYS_kill, [scene.other.into(), 0, 0, 0, 0])),
    ("connect-tcp", connect_tcp),
    ("connect-abstract", connect_abstract),
    ("ring-open", |scene| ring_open(scene.outside.as_raw_fd(), c"secret")),
    ("ring-setup", |_| IoUring::new(4).map(drop)),
    ("socket", |_| socket(libc::AF_INET, libc::SOCK_DGRAM).map(drop)),
    ("fork", fork),
    // For the main thread: another would have to be waited for by its tracer.
    ("trace-me", |_| call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0])),
    ("trace-other", |scene| {
        // PTRACE_SEIZE, which does not stop it.
        call(libc::SYS_ptrace, [0x4206, scene.other.into(), 0, 0, 0])
    }),
    ("personality", |_| call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0])),
    ("read-memory", read_memory),
    ("executable-memory", |_| map(libc::PROT_READ | libc::PROT_EXEC)),
    ("dumpable", |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0])),
    ("ioctl", |_| {
        let mut count = 0_i32;
        let (pipe, _other) = io::pipe()?;
        let count = (&raw mut count) as i64;
        call(libc::SYS_ioctl, [pipe.as_raw_fd().into(), libc::FIONREAD as i64, count, 0, 0])
    }),
    ("async-owner", |scene| {
        let fd = fd(&scene.outside);
        call(libc::SYS_fcntl, [fd, libc::F_SETOWN.into(), i64::from(std::process::id()), 0, 0])
    }),
    ("own-namespace", |_| call(libc::SYS_unshare, [libc::CLONE_NEWUTS.into(), 0, 0, 0, 0])),
    ("copy-mounts", |scene| {
        // OPEN_TREE_CLONE.
        call(libc::SYS_open_tree, [scene.share.into(), text(c"."), 1, 0, 0])
    }),
    ("bpf", |_| {
        // BPF_MAP_CREATE of an array: type, size of a key, of a value, number of entries.
        let attributes: [u32; 18] = std::array::from_fn(|i| [2, 4, 4, 1].get(i).copied().unwrap_or(0));
        call(libc::SYS_bpf, [0, attributes.as_ptr() as i64, 72, 0, 0])
    }),
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_PROCESS_KEYRING, which is made.
    ("keyring", |_| call(libc::SYS_keyctl, [0, -2, 1, 0, 0])),
];

/// Does the act of this name.
pub fn act(name: &str, scene: &Scene) -> io::Result<()> {
    let (_, act) = ACTS.iter().find(|(known, _)| *known == name).expect("a known act");
    act(scene)
}

fn call(number: libc::c_long, arguments: [i64; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the acts above pass what the calls want; pointers are to memory that lives until the call returns.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn fd(fd: &OwnedFd) -> i64 {
    fd.as_raw_fd().into()
}

fn text(text: &'static CStr) -> i64 {
    text.as_ptr() as i64
}

fn open(directory: RawFd, path: &'static CStr, flags: i32) -> io::Result<()> {
    let flags = flags | libc::O_CLOEXEC;
    call(libc::SYS_openat, [directory.into(), text(path), flags.into(), 0o600, 0])
}

fn rename(from: RawFd, name: &'static CStr, to: RawFd, new_name: &'static CStr) -> io::Result<()> {
    call(libc::SYS_renameat2, [from.into(), text(name), to.into(), text(new_name), 0])
}

/// Whether it is done, the program says itself.
fn execute(scene: &Scene) -> io::Result<()> {
    let program = std::ffi::CString::new(scene.program.to_str().expect("text"))?;
    let arguments = [program.as_ptr(), c"did".as_ptr(), null()];
    // SAFETY: a path and two lists that end with a null pointer; on success nothing of this process is left.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), [null()].as_ptr()) };
    Err(io::Error::last_os_error())
}

fn fork(_: &Scene) -> io::Result<()> {
    // SAFETY: the child does nothing but end.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: no precondition.
        0 => unsafe { libc::_exit(0) },
        child => {
            // SAFETY: a null pointer says that the status is not wanted.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            Ok(())
        }
    }
}

fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is involved.
    match unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor is new.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

fn connect(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    call(libc::SYS_connect, [fd(socket), address.as_ptr() as i64, address.len() as i64, 0, 0])
}

fn connect_tcp(scene: &Scene) -> io::Result<()> {
    let family = u16::try_from(libc::AF_INET).expect("small").to_ne_bytes();
    let address = [&family[..], &scene.port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat();
    connect(&socket(libc::AF_INET, libc::SOCK_STREAM)?, &address)
}

/// The name of the abstract socket that goes with a port.
pub fn abstract_name(port: u16) -> String {
    format!("extentfsd-test-{port}")
}

fn connect_abstract(scene: &Scene) -> io::Result<()> {
    let family = u16::try_from(libc::AF_UNIX).expect("small").to_ne_bytes();
    let address = [&family[..], &[0], abstract_name(scene.port).as_bytes()].concat();
    connect(&socket(libc::AF_UNIX, libc::SOCK_STREAM)?, &address)
}

/// By an io_uring that nobody has restricted, past all filters of system calls but those of its own three.
fn ring_open(directory: RawFd, path: &'static CStr) -> io::Result<()> {
    let mut ring = IoUring::new(4)?;
    let entry = opcode::OpenAt::new(types::Fd(directory), path.as_ptr()).flags(libc::O_CLOEXEC).build();
    // SAFETY: the path is a constant.
    unsafe { ring.submission().push(&entry) }.expect("room");
    ring.submit_and_wait(1)?;
    match ring.completion().next().expect("a completion").result() {
        error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

fn read_memory(_: &Scene) -> io::Result<()> {
    let (from, mut to) = (7_u64, 0_u64);
    let local = libc::iovec { iov_base: (&raw mut to).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: (&raw const from).cast_mut().cast(), iov_len: 8 };
    // SAFETY: one buffer each, both of this function.
    match unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn map(protection: i32) -> io::Result<()> {
    // SAFETY: a new mapping in a place that the kernel chooses; it is never touched.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
