//! What can the kernel here give at all? On an older one the tests leave out what it has no wall against.

/// The version of Landlock's interface (`landlock_create_ruleset(2)`), 0 where there is none.
pub fn landlock() -> i64 {
    query(1)
}

/// Whether Landlock says that its third erratum is mended, which was about files opened by handle.
pub fn serves_disconnected() -> bool {
    query(2) & 4 != 0
}

fn query(flag: libc::c_uint) -> i64 {
    let none: *const u8 = std::ptr::null();
    // SAFETY: with one of these flags the call reads no memory.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, flag) };
    answer.max(0)
}

/// Whether nothing is missing, so that the daemon starts with `--sandbox-required`.
pub fn gives_all() -> bool {
    landlock() >= 6
}

/// Whether Landlock here can deny this act.
pub fn landlock_knows(act: &str) -> bool {
    let since = match act {
        "connect-tcp" => 4,
        "signal" | "connect-abstract" => 6,
        // Before, nothing could be moved from one directory to another, and the daemon does without it.
        _ => 2,
    };
    let knows = landlock() >= since;
    if !knows {
        eprintln!("skipped: {act}: Landlock of this kernel knows nothing of it");
    }
    knows
}
