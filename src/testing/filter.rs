//! A filter of system calls, as sandboxes have it.

/// Has the kernel refuse the calling thread a system call (`EPERM`), for good.
pub(crate) fn forbid(call: libc::c_long) {
    answer(call, libc::EPERM);
}

/// Has the calling thread's system call do nothing, and return this error, or success where that is 0. For good.
pub(crate) fn answer(call: libc::c_long, error: libc::c_int) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let refuse = libc::SECCOMP_RET_ERRNO | error as u32;
    let mut filter = [
        // The system call's number is first.
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: equal, jt: 0, jf: 1, k: call as u32 },
        libc::sock_filter { code: give, jt: 0, jf: 0, k: refuse },
        libc::sock_filter { code: give, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is valid; the kernel copies it.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
}
