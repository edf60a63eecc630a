//! What the kernel says of this process's rights, which the programs that it starts inherit.

use std::fs;

/// Lines of `/proc/self/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnStatus {
    /// 0: no filter of system calls; 1: the strict mode; 2: filters.
    pub seccomp: u8,
    /// How many filters; the kernel says so since 5.9.
    pub filters: Option<u32>,
    /// What is executed gets no more rights than this process has.
    pub no_new_privileges: bool,
    /// The effective capabilities, a bit each.
    capabilities: u64,
}

/// See `linux/capability.h`.
pub const CAP_IPC_LOCK: u32 = 14;
pub const CAP_SYS_PTRACE: u32 = 19;
pub const CAP_SYS_ADMIN: u32 = 21;
pub const CAP_SYS_RESOURCE: u32 = 24;

impl OwnStatus {
    /// `None` where there is no `/proc`.
    pub fn read() -> Option<OwnStatus> {
        Some(Self::parse(&String::from_utf8_lossy(&fs::read("/proc/self/status").ok()?)))
    }

    fn parse(text: &str) -> OwnStatus {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let capabilities = field("CapEff").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        OwnStatus {
            seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or(0),
            filters: field("Seccomp_filters").and_then(|count| count.parse().ok()),
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            capabilities: capabilities.unwrap_or(0),
        }
    }

    /// Has this process one of them?
    pub fn has_any(&self, capabilities: &[u32]) -> bool {
        capabilities.iter().any(|capability| self.capabilities >> capability & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_by_their_whole_names() {
        let text = "CapEff:\t0000000000080000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let status = OwnStatus::parse(text);
        assert_eq!((status.seccomp, status.filters, status.no_new_privileges), (2, Some(3), true));
        assert!(
            status.has_any(&[CAP_SYS_PTRACE, CAP_SYS_ADMIN]) && !status.has_any(&[CAP_IPC_LOCK])
        );
        assert_eq!(OwnStatus::parse("Name:\tx\n"), OwnStatus::default());
    }
}
