//! The slow sections of malloc, free and release, for who counts what happens in them.
//!
//! A [`Listener`] is told when a thread enters a section and when it leaves it. While there is none a
//! section costs two loads, each with a branch that is not taken; the fast path has no sections.
//!
//! What a listener counts it adds to the counts that are kept here, where they are read like all
//! other figures: by this process ([`counts`]) and by others ([`crate::figures::remote`]).

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::os::tls::ThreadWord;

/// A part of the allocator off the fast path. They may nest: a tick spills and purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// An empty bin is filled from spans.
    Refill = 0,
    /// Blocks of a bin go back to their spans.
    Spill = 1,
    /// The release machinery's tick.
    Tick = 2,
    /// Pages are given back to the system.
    Purge = 3,
}

impl Section {
    /// Every section, in the order of their numbers.
    pub const ALL: [Section; 4] = [Section::Refill, Section::Spill, Section::Tick, Section::Purge];

    /// Its name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Section::Refill => "refill",
            Section::Spill => "spill",
            Section::Tick => "tick",
            Section::Purge => "purge",
        }
    }
}

/// What can be counted in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PerfEvent {
    /// Cycles of the processor.
    Cycles = 0,
    /// Instructions it retired.
    Instructions = 1,
    /// Misses of its last cache.
    CacheMisses = 2,
    /// Misses of its translation buffer for data, by reads.
    DtlbMisses = 3,
    /// Nanoseconds on a processor.
    TaskClock = 4,
    /// Page faults.
    PageFaults = 5,
    /// Context switches.
    ContextSwitches = 6,
}

impl PerfEvent {
    /// Every event, in the order of their numbers.
    pub const ALL: [PerfEvent; 7] = [
        PerfEvent::Cycles,
        PerfEvent::Instructions,
        PerfEvent::CacheMisses,
        PerfEvent::DtlbMisses,
        PerfEvent::TaskClock,
        PerfEvent::PageFaults,
        PerfEvent::ContextSwitches,
    ];

    /// Its name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            PerfEvent::Cycles => "cycles",
            PerfEvent::Instructions => "instructions",
            PerfEvent::CacheMisses => "cache_misses",
            PerfEvent::DtlbMisses => "dtlb_misses",
            PerfEvent::TaskClock => "task_clock_nanoseconds",
            PerfEvent::PageFaults => "page_faults",
            PerfEvent::ContextSwitches => "context_switches",
        }
    }
}

const SECTIONS: usize = Section::ALL.len();
const EVENTS: usize = PerfEvent::ALL.len();

/// What is told of sections. `thread` tells the calling thread from all others that live; the
/// release machinery's own, which libc does not know of, are among them.
///
/// The functions run inside malloc, on any thread. They must not allocate, panic, take a lock, or use
/// what needs a thread of libc's: `thread_local!`, for one. They may change `errno`.
pub struct Listener {
    /// The thread enters a section.
    pub enter: fn(Section, thread: usize),
    /// It leaves the section that it entered last; perhaps before anybody listened.
    pub leave: fn(thread: usize),
    /// It will not enter any more. Not called for a thread whose process ends.
    pub thread_ends: fn(thread: usize),
    /// A fork has made this process, whose only thread is the calling one. No section is entered
    /// here before this.
    pub forked: fn(),
}

static LISTENER: AtomicPtr<Listener> = AtomicPtr::new(core::ptr::null_mut());

/// Tells `listener` of all sections from now on, of any thread, instead of the one before it. There is
/// no way to have none again: a thread may still be on its way to the old one.
pub fn listen(listener: &'static Listener) {
    // Release: partner of the Acquire in `listener`.
    LISTENER.store(core::ptr::from_ref(listener).cast_mut(), Ordering::Release);
}

#[inline(always)]
fn listener() -> Option<&'static Listener> {
    // Acquire: partner of the Release in `listen`.
    let listener = LISTENER.load(Ordering::Acquire);
    // SAFETY: null, or from a shared reference that holds for ever.
    unsafe { listener.as_ref() }
}

/// The calling thread is in a section until this is dropped. It does not keep the listener: that costs
/// a register through all of the section, and an instruction for each block that is spilled.
pub(crate) struct Entered(());

/// Enters a section.
#[inline(always)]
pub(crate) fn enter(section: Section) -> Entered {
    if let Some(listener) = listener() {
        tell_enter(listener, section);
    }
    Entered(())
}

impl Drop for Entered {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(listener) = listener() {
            tell_leave(listener);
        }
    }
}

#[cold]
#[inline(never)]
fn tell_enter(listener: &Listener, section: Section) {
    (listener.enter)(section, ThreadWord::of_this_thread().address());
}

#[cold]
#[inline(never)]
fn tell_leave(listener: &Listener) {
    (listener.leave)(ThreadWord::of_this_thread().address());
}

/// The calling thread enters no section any more.
pub(crate) fn thread_ends() {
    if let Some(listener) = listener() {
        (listener.thread_ends)(ThreadWord::of_this_thread().address());
    }
}

/// This process is a fork's child.
pub(crate) fn forked() {
    if let Some(listener) = listener() {
        (listener.forked)();
    }
}

/// What was counted so far. Any thread writes.
#[repr(C)]
pub(crate) struct Cells {
    /// A bit for each event that is counted.
    events: AtomicU64,
    counts: [[AtomicU64; SECTIONS]; EVENTS],
    uncounted: [AtomicU64; SECTIONS],
}

/// The process's.
pub(crate) static CELLS: Cells = Cells {
    events: AtomicU64::new(0),
    counts: [const { [const { AtomicU64::new(0) }; SECTIONS] }; EVENTS],
    uncounted: [const { AtomicU64::new(0) }; SECTIONS],
};

/// From now on `event` is counted. Until this is said it has no counts, not even 0.
pub fn announce(event: PerfEvent) {
    CELLS.events.fetch_or(1 << event as u8, Ordering::Relaxed);
}

/// `more` events have happened in a section. Any thread, inside malloc too.
pub fn add(section: Section, event: PerfEvent, more: u64) {
    CELLS.counts[event as usize][section as usize].fetch_add(more, Ordering::Relaxed);
}

/// A section was entered in which nothing is counted. Any thread, inside malloc too.
pub fn add_uncounted(section: Section) {
    CELLS.uncounted[section as usize].fetch_add(1, Ordering::Relaxed);
}

/// What was counted so far.
pub fn counts() -> SectionCounts {
    CELLS.read()
}

impl Cells {
    pub fn read(&self) -> SectionCounts {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let events = load(&self.events);
        SectionCounts {
            counts: core::array::from_fn(|event| {
                let is_counted = events >> event & 1 == 1;
                self.counts[event].each_ref().map(|cell| is_counted.then(|| load(cell)))
            }),
            uncounted: core::array::from_fn(|section| load(&self.uncounted[section])),
        }
    }
}

/// What was counted in sections. Where they nest, what happens in the inner one is the inner one's
/// alone, so that counts of different sections may be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionCounts {
    /// How often each event happened in each section; `None` if it is not counted.
    pub counts: [[Option<u64>; SECTIONS]; EVENTS],
    /// How often each section was entered by a thread whose events could not be counted.
    pub uncounted: [u64; SECTIONS],
}

impl SectionCounts {
    /// Is anything counted?
    pub fn is_counted(&self) -> bool {
        self.counts.as_flattened().iter().any(Option::is_some)
    }

    /// How often the event happened in the section; `None` if it is not counted.
    pub fn count(&self, event: PerfEvent, section: Section) -> Option<u64> {
        self.counts[event as usize][section as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::sync::atomic::AtomicUsize;
    use std::sync::Mutex;

    use crate::caches::bin::Bins;
    use crate::geometry::size_class::SizeClass;
    use crate::heap::central;
    use crate::release::purge_everything;
    use crate::testing::test_heap::TestHeap;

    #[test]
    fn what_is_not_announced_has_no_count() {
        let cells = Cells {
            events: AtomicU64::new(1 << PerfEvent::PageFaults as u8),
            counts: Default::default(),
            uncounted: Default::default(),
        };
        cells.counts[PerfEvent::PageFaults as usize][Section::Purge as usize]
            .store(7, Ordering::Relaxed);
        let counts = cells.read();
        assert!(counts.is_counted());
        assert_eq!(counts.count(PerfEvent::PageFaults, Section::Purge), Some(7));
        assert_eq!(counts.count(PerfEvent::PageFaults, Section::Tick), Some(0));
        assert_eq!(counts.count(PerfEvent::Cycles, Section::Purge), None);
        assert!(!SectionCounts::default().is_counted());
    }

    /// The thread whose sections are told, and what was: its initials, an end for each.
    static HEARD_THREAD: AtomicUsize = AtomicUsize::new(0);
    static HEARD: Mutex<String> = Mutex::new(String::new());

    fn hear(thread: usize, mark: char) {
        if thread == HEARD_THREAD.load(Ordering::Relaxed) {
            HEARD.lock().unwrap().push(mark);
        }
    }

    static LISTENER: Listener = Listener {
        enter: |section, thread| hear(thread, ['r', 's', 't', 'p'][section as usize]),
        leave: |thread| hear(thread, '.'),
        thread_ends: |_| {},
        forked: || {},
    };

    #[test]
    fn sections_are_told_from_beginning_to_end_and_as_they_nest() {
        let test = TestHeap::new();
        let word = ThreadWord::of_this_thread();
        let cache = test.attach(word);
        HEARD_THREAD.store(word.address(), Ordering::Relaxed);
        listen(&LISTENER);
        let heard = || std::mem::take(&mut *HEARD.lock().unwrap());
        let class = SizeClass::for_bytes(4096);

        assert!(central::refill(&test.heap, cache, class).is_some());
        assert_eq!(heard(), "r.");
        central::spill(&test.heap, cache, class, 0);
        assert_eq!(heard(), "", "nothing to do is no section");
        central::flush(&test.heap, cache, Bins::ALL);
        assert_eq!(heard(), "s.");
        test.tick();
        assert_eq!(heard(), "tp.p..", "the ledger, then the inside of spans");
        purge_everything(&test.heap, &test.release, &test.os);
        assert_eq!(heard(), "p.");
    }

    #[test]
    fn numbers_are_places() {
        assert!(Section::ALL.iter().enumerate().all(|(place, &one)| one as usize == place));
        assert!(PerfEvent::ALL.iter().enumerate().all(|(place, &one)| one as usize == place));
    }
}
