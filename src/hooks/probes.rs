//! Static probes (USDT): places where perf, bpftrace, SystemTap and gdb can look into a running
//! program, with figures at hand. Each is one `nop`, and an ELF note that says where it is and where
//! its arguments are; a tracer that attaches puts a breakpoint in the `nop`'s place.
//!
//! They are there with the feature `probes`, which the preload library and the exporters turn on.
//! The provider is `slackwater`; every argument is an unsigned number of 64 bits; [`CATALOGUE`] has
//! the names in order. Amounts are in the unit that a name ends in, addresses in bytes.
//!
//! ```text
//! bpftrace -p PID -e 'usdt:*:slackwater:refill { @[arg0] = count(); }'
//! perf buildid-cache --add LIBRARY; perf probe --add sdt_slackwater:refill; perf record -e …
//! ```
//!
//! `scripts/bpftrace` has scripts. perf 6.1 takes a probe's address for its place in the file,
//! which is wrong where lld laid the file out; link a program of your own with
//! `-Wl,-z,separate-code`, as the library and the program `slackwater` are.

/// A probe's name, and those of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The name, after the provider's, `slackwater`.
    pub name: &'static str,
    /// The arguments' names: `arg0`, `arg1`, … of bpftrace, `arg1`, `arg2`, … of perf.
    pub arguments: &'static [&'static str],
}

/// Defines the probes and their catalogue. The only place that knows whether there are any.
macro_rules! probes {
    ($($(#[doc = $doc:literal])* $name:ident($($argument:ident),*);)*) => {
        $(
            $(#[doc = $doc])*
            #[inline(always)]
            pub(crate) fn $name($($argument: u64),*) {
                #[cfg(feature = "probes")]
                probe::probe!(slackwater, $name, $($argument),*);
                #[cfg(not(feature = "probes"))]
                let _ = ($($argument),*);
            }
        )*

        /// Every probe there is:
        ///
        $(
            #[doc = concat!("`", stringify!($name), "(", $(stringify!($argument), ", ",)* ")`:")]
            $(#[doc = $doc])*
            #[doc = ""]
        )*
        pub static CATALOGUE: &[Probe] = &[
            $(Probe { name: stringify!($name), arguments: &[$(stringify!($argument)),*] }),*
        ];
    };
}

probes! {
    /// A thread's empty bin got `blocks` blocks of `block_bytes` from spans; it has room for
    /// `bin_blocks`. No blocks: out of memory. As often as `refills_total` counts.
    refill(block_bytes, blocks, bin_blocks);
    /// A thread's bin gave `blocks` blocks of `block_bytes` back to spans: it was full, rested, or its
    /// thread ended. As often as `spills_total` counts.
    spill(block_bytes, blocks);
    /// The last block of a span came back: the span of blocks of `block_bytes` at `address`, of whose
    /// 16 pages `resident_pages` may be resident, is no more.
    retire(block_bytes, address, resident_pages);
    /// The release boundary: `pages` pages at `address` became free, of which `dirty_pages` may be
    /// resident and wait for a purge. `reason` is a `ReleaseReason`: 0 small, 1 sub4k, 2 medium, 3
    /// large. As often as `release_enqueued_total` counts.
    release(reason, address, pages, dirty_pages);
    /// A tick is over; it took `micros`. `gate` is what it decided: 0 idle, 1 busy. `operations`:
    /// slow-path operations since the last one. `pages`: what it gave back, without its assistant's.
    tick(gate, operations, pages, micros);
    /// A batch of `ranges` ranges is about to be given to the kernel; `interior` is 1 for pages inside
    /// spans in use, 0 for free ones.
    purge_begin(ranges, interior);
    /// The same batch is done, after `micros` in the kernel and `calls` system calls; `pages` were
    /// given back.
    purge_end(ranges, pages, calls, micros, interior);
    /// Caches of other threads were to be flushed: `taken` were, `busy` were in use just then.
    takeover(taken, busy);
    /// An allocation of `bytes` was sampled: the block at `address`. It stands for `weighted_bytes` of
    /// allocations. `stack` is the number of its call stack in the profile, 0 where that is unknown.
    sample_alloc(address, bytes, weighted_bytes, stack);
    /// A sampled block of `bytes` at `address` was freed, `age_micros` after its allocation.
    sample_free(address, bytes, age_micros);
}
