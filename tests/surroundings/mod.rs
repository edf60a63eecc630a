//! What a test program and its children would inherit from whoever runs it, set before `main`, when nobody
//! else runs yet: ignored signals as under `nohup`, blocked ones, a low limit of open files, a locale, a
//! proxy. (A closed standard input is std's business.) The tests of all packages that start programs have it.

use std::{env, mem, ptr};

#[used]
#[unsafe(link_section = ".init_array")]
static SURROUNDINGS: extern "C" fn() = set_surroundings;

extern "C" fn set_surroundings() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGCHLD, libc::SIGTERM] {
        // SAFETY: the default action is one for each of these signals, and takes no memory.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all-zero is a set of signals, and means none.
    let none: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `none` lives through the call, which reads it; the old set is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    // SAFETY: `umask` cannot fail, and touches no memory.
    unsafe { libc::umask(0o022) };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call, which writes it alone.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if known && limit.rlim_cur < limit.rlim_max.min(1024) {
        limit.rlim_cur = limit.rlim_max.min(1024);
        // SAFETY: `limit` lives through the call, which reads it. Where it fails, all stays as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    let foreign = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
        name.starts_with("LC_")
            || ["LANG", "LANGUAGE", "TZ"].contains(&name)
            || proxies.contains(&name.to_ascii_lowercase().as_str())
    };
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(foreign)) {
        // SAFETY: there is no other thread before `main` that could read the environment.
        unsafe { env::remove_var(name) };
    }
    // SAFETY: as above.
    unsafe { env::set_var("LC_ALL", "C.UTF-8") };
}
