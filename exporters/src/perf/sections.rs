//! Counts around the slow sections of this process's allocator.
//!
//! Everything in [`LISTENER`] runs inside malloc, also on threads that libc does not know of: it calls
//! the kernel, and keeps what it needs in a table of fixed size.

use std::array;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use slackwater::sections::{self, Listener, Section};

use super::events::{self, GROUP_EVENTS, GroupCounts};
use super::plan::{GROUPS, Plan};

/// Threads that can be counted at a time.
const SLOTS: usize = 1024;

/// How far from its place a thread's slot may be.
const REACH: usize = 64;

/// Sections nest less deeply than this.
const DEPTH: usize = 4;

/// The kernel's table of a process's descriptors is as long as the highest number.
const MAX_FIRST_DESCRIPTOR: usize = 4096;

/// Stands for a descriptor that is not open.
const NONE: RawFd = -1;

static PLAN: OnceLock<Plan> = OnceLock::new();

/// The process that counts: a child of `vfork` shares the memory, but not the descriptors.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The lowest number that a descriptor may get here.
static FIRST_DESCRIPTOR: AtomicI32 = AtomicI32::new(0);

/// How many threads have descriptors, and how many may.
static OPEN_THREADS: AtomicUsize = AtomicUsize::new(0);
static MAX_OPEN_THREADS: AtomicUsize = AtomicUsize::new(0);

static TABLE: [ThreadSlot; SLOTS] = [const { ThreadSlot::new() }; SLOTS];

/// By group and section, for how long events were to be counted while they had no registers, and for
/// which no count has been scaled up yet.
static UNSEEN: [[AtomicU64; Section::ALL.len()]; GROUPS.len()] =
    [const { [const { AtomicU64::new(0) }; Section::ALL.len()] }; GROUPS.len()];

static LISTENER: Listener = Listener { enter, leave, thread_ends, forked };

/// What is counted; after [`start`], something.
pub fn plan() -> &'static Plan {
    static NOTHING: Plan = Plan { groups: [Vec::new(), Vec::new()], is_user_only: false };
    PLAN.get().unwrap_or(&NOTHING)
}

/// Starts counting.
pub fn start(plan: Plan) {
    let descriptors = descriptor_limit();
    let per_thread = plan.events().count();
    MAX_OPEN_THREADS.store(descriptors / 4 / per_thread.max(1), Ordering::Relaxed);
    FIRST_DESCRIPTOR.store((descriptors / 2).min(MAX_FIRST_DESCRIPTOR) as RawFd, Ordering::Relaxed);
    PROCESS.store(std::process::id(), Ordering::Relaxed);
    for event in plan.events() {
        sections::announce(event);
    }
    PLAN.get_or_init(|| plan);
    sections::listen(&LISTENER);
}

/// How many descriptors the process may have open.
fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    // The kernel's own limit is a billion; without one, its default.
    if known { limit.rlim_cur.min(1 << 30) as usize } else { 1024 }
}

fn enter(section: Section, thread: usize) {
    keep_errno(|| match ThreadSlot::of(thread).or_else(|| ThreadSlot::claim(thread)) {
        Some(slot) => slot.enter(section),
        None => sections::add_uncounted(section),
    });
}

fn leave(thread: usize) {
    keep_errno(|| {
        if let Some(slot) = ThreadSlot::of(thread) {
            slot.leave();
        }
    });
}

fn thread_ends(thread: usize) {
    keep_errno(|| {
        if let Some(slot) = ThreadSlot::of(thread) {
            slot.close();
            slot.give_back();
        }
    });
}

/// The table is the parent's, and so are the events, of which these descriptors are copies.
fn forked() {
    keep_errno(|| {
        PROCESS.store(std::process::id(), Ordering::Relaxed);
        for slot in &TABLE {
            if slot.thread.load(Ordering::Relaxed) != 0 {
                slot.close();
                slot.give_back();
            }
        }
        // Those whose descriptors were in another table, the ticker's, are not open here.
        OPEN_THREADS.store(0, Ordering::Relaxed);
    });
}

/// A thread's counters.
///
/// # Invariants
/// While `thread` is not 0, that thread alone reads and writes the rest; or, in a forked child, the
/// only one there is. A signal handler may come in between, which costs a count and no more.
struct ThreadSlot {
    thread: AtomicUsize,
    /// In how many sections it is, and in which.
    depth: AtomicUsize,
    sections: [AtomicU8; DEPTH],
    groups: [EventGroup; GROUPS.len()],
}

/// Events that are read at once.
///
/// # Invariants
/// The descriptors of the events that are there come first; after them, and where nothing is open,
/// there is [`NONE`].
struct EventGroup {
    descriptors: [AtomicI32; GROUP_EVENTS],
    /// What the kernel calls the events. A program may close what it does not know, and get the same
    /// number for a file of its own.
    ids: [AtomicU64; GROUP_EVENTS],
    /// What was read last.
    enabled: AtomicU64,
    running: AtomicU64,
    counts: [AtomicU64; GROUP_EVENTS],
}

impl ThreadSlot {
    const fn new() -> ThreadSlot {
        ThreadSlot {
            thread: AtomicUsize::new(0),
            depth: AtomicUsize::new(0),
            sections: [const { AtomicU8::new(0) }; DEPTH],
            groups: [const { EventGroup::new() }; GROUPS.len()],
        }
    }

    /// The slots where a thread's may be.
    fn places(thread: usize) -> impl Iterator<Item = &'static ThreadSlot> {
        // Threads' words lie at the same place in pages of their own.
        let first = (thread >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (first..first + REACH).map(|place| &TABLE[place % SLOTS])
    }

    /// The thread's slot.
    fn of(thread: usize) -> Option<&'static ThreadSlot> {
        // Relaxed: the calling thread wrote it.
        ThreadSlot::places(thread).find(|slot| slot.thread.load(Ordering::Relaxed) == thread)
    }

    /// A slot for the calling thread, with open counters where they are to be had.
    fn claim(thread: usize) -> Option<&'static ThreadSlot> {
        if PROCESS.load(Ordering::Relaxed) != std::process::id() {
            return None;
        }
        // Acquire: partner of the Release in `give_back`.
        let is_mine = |slot: &&ThreadSlot| {
            slot.thread.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let slot = ThreadSlot::places(thread).find(is_mine)?;
        slot.open();
        Some(slot)
    }

    /// For another thread.
    fn give_back(&self) {
        self.depth.store(0, Ordering::Relaxed);
        // Release: partner of the Acquire in `claim`.
        self.thread.store(0, Ordering::Release);
    }

    fn enter(&self, section: Section) {
        let depth = self.depth.load(Ordering::Relaxed);
        if depth == 0 && self.is_open() && !self.is_sound() {
            self.close();
            self.open();
        }
        if self.is_open() {
            self.settle();
        } else {
            sections::add_uncounted(section);
        }
        if let Some(place) = self.sections.get(depth) {
            place.store(section as u8, Ordering::Relaxed);
        }
        self.depth.store(depth + 1, Ordering::Relaxed);
    }

    fn leave(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        // It entered before there was a listener, or a slot.
        if depth == 0 {
            return;
        }
        if self.is_open() {
            self.settle();
        }
        self.depth.store(depth - 1, Ordering::Relaxed);
    }

    /// Adds what has been counted since the last time to the section that the thread is in.
    fn settle(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        let section = self.sections.get(depth.wrapping_sub(1));
        let section = section.map(|section| section.load(Ordering::Relaxed));
        let section = section.and_then(|number| Section::ALL.get(usize::from(number)).copied());
        for (group, (events, unseen)) in self.groups.iter().zip(plan().groups.iter().zip(&UNSEEN)) {
            let Some(passed) = group.advance(events.len()) else { continue };
            let Some(section) = section else { continue };
            let Some((enabled, running)) = share(&unseen[section as usize], passed) else {
                continue;
            };
            for (&event, count) in events.iter().zip(passed.counts).filter(|(_, count)| *count > 0)
            {
                sections::add(section, event, events::scaled(count, enabled, running));
            }
        }
    }

    fn is_open(&self) -> bool {
        self.groups[0].leader() != NONE
    }

    /// Are the descriptors what they were when they were opened?
    fn is_sound(&self) -> bool {
        self.groups.iter().all(EventGroup::is_sound)
    }

    /// Opens every event, or none.
    fn open(&self) {
        if OPEN_THREADS.fetch_add(1, Ordering::Relaxed) < MAX_OPEN_THREADS.load(Ordering::Relaxed) {
            let plan = plan();
            let mut groups = self.groups.iter().zip(&plan.groups);
            if groups.all(|(group, events)| group.open(events, plan.is_user_only)) {
                return;
            }
        }
        self.close_groups();
        OPEN_THREADS.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&self) {
        if self.is_open() {
            self.close_groups();
            OPEN_THREADS.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn close_groups(&self) {
        self.groups.iter().for_each(EventGroup::close);
    }
}

impl EventGroup {
    const fn new() -> EventGroup {
        EventGroup {
            descriptors: [const { AtomicI32::new(NONE) }; GROUP_EVENTS],
            ids: [const { AtomicU64::new(0) }; GROUP_EVENTS],
            enabled: AtomicU64::new(0),
            running: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; GROUP_EVENTS],
        }
    }

    fn leader(&self) -> RawFd {
        self.descriptors[0].load(Ordering::Relaxed)
    }

    fn is_sound(&self) -> bool {
        self.leader() == NONE || is_event(&self.descriptors[0], &self.ids[0])
    }

    /// Opens the events for the calling thread. `false`: not all of them.
    fn open(&self, wanted: &[sections::PerfEvent], is_user_only: bool) -> bool {
        let first = FIRST_DESCRIPTOR.load(Ordering::Relaxed);
        let mut leader: Option<RawFd> = None;
        for ((&event, place), id) in wanted.iter().zip(&self.descriptors).zip(&self.ids) {
            let opened = events::open(event, is_user_only, 0, leader.as_ref());
            let Some(descriptor) = opened.ok().and_then(|low| raise(low, first)) else {
                return false;
            };
            let Some(its_id) = events::id(descriptor.as_raw_fd()) else { return false };
            let descriptor = descriptor.into_raw_fd();
            id.store(its_id, Ordering::Relaxed);
            place.store(descriptor, Ordering::Relaxed);
            leader.get_or_insert(descriptor);
        }
        leader.is_none_or(events::enable)
    }

    fn close(&self) {
        for (place, id) in self.descriptors.iter().zip(&self.ids) {
            if is_event(place, id) {
                // SAFETY: it is the event that was opened here, and nobody else closes it.
                drop(unsafe { OwnedFd::from_raw_fd(place.load(Ordering::Relaxed)) });
            }
            place.store(NONE, Ordering::Relaxed);
        }
    }

    /// Reads what has been counted since the last time.
    fn advance(&self, events: usize) -> Option<GroupCounts> {
        let now = match self.leader() {
            NONE => return None,
            leader => events::read(leader, events)?,
        };
        let since =
            |last: &AtomicU64, now: u64| now.saturating_sub(last.swap(now, Ordering::Relaxed));
        Some(GroupCounts {
            enabled: since(&self.enabled, now.enabled),
            running: since(&self.running, now.running),
            counts: array::from_fn(|i| since(&self.counts[i], now.counts[i])),
        })
    }
}

/// The time for which the counts that were read stand, and the time in which they were seen. `None`:
/// they were not, and the next ones stand for them too.
fn share(unseen: &AtomicU64, passed: GroupCounts) -> Option<(u64, u64)> {
    if passed.running == 0 {
        unseen.fetch_add(passed.enabled, Ordering::Relaxed);
        return None;
    }
    // Mostly there is nothing, and then nothing to write.
    let owed = match unseen.load(Ordering::Relaxed) {
        0 => 0,
        _ => unseen.swap(0, Ordering::Relaxed),
    };
    Some((passed.enabled.saturating_add(owed), passed.running))
}

/// Is it still open, and the same event?
fn is_event(place: &AtomicI32, id: &AtomicU64) -> bool {
    let descriptor = place.load(Ordering::Relaxed);
    descriptor != NONE && events::id(descriptor) == Some(id.load(Ordering::Relaxed))
}

/// The same with a number that is not below `first`: a program may count on getting the lowest number
/// that it has free.
fn raise(low: OwnedFd, first: RawFd) -> Option<OwnedFd> {
    // SAFETY: a descriptor that is open, and plain numbers.
    let high = unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) };
    // SAFETY: it was just opened, and nobody else knows of it.
    (high >= 0).then(|| unsafe { OwnedFd::from_raw_fd(high) })
}

/// Does `work`; the program that is inside malloc finds its `errno` as it was.
fn keep_errno(work: impl FnOnce()) {
    // SAFETY: no preconditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: it is the calling thread's.
    let errno = unsafe { place.read() };
    work();
    // SAFETY: as above.
    unsafe { place.write(errno) };
}

#[cfg(test)]
mod tests {
    use super::*;

    use slackwater::sections::{PerfEvent, counts};

    use crate::perf::test_pages::{self, Fresh};

    /// Not a word's address, so no thread's.
    const SOMEBODY: usize = 1 << 62;

    #[test]
    fn faults_are_counted_where_they_happen_and_once() {
        let Some(plan) = test_pages::plan() else { return };
        let fresh = Fresh::new(1100);
        start(plan);
        let faults = |section| counts().count(PerfEvent::PageFaults, section).expect("counted");
        let round = |from: usize| {
            let before = Section::ALL.map(faults);
            enter(Section::Tick, SOMEBODY);
            fresh.touch(from..from + 30);
            enter(Section::Purge, SOMEBODY);
            fresh.touch(from + 30..from + 50);
            leave(SOMEBODY);
            fresh.touch(from + 50..from + 60);
            leave(SOMEBODY);
            // In no section.
            fresh.touch(from + 60..from + 100);
            enter(Section::Refill, SOMEBODY);
            fresh.touch(from + 100..from + 107);
            leave(SOMEBODY);
            let after = Section::ALL.map(faults);
            array::from_fn::<u64, 4, _>(|i| after[i] - before[i])
        };
        // The code's and the stack's own pages are there after the first.
        round(0);
        assert_eq!(round(200), [7, 0, 40, 20], "refill, spill, tick, purge");

        // Deeper than there is room for: counted where it is known, and it comes out again.
        let before = Section::ALL.map(faults);
        for _ in 0..DEPTH + 2 {
            enter(Section::Spill, SOMEBODY);
        }
        fresh.touch(400..410);
        for _ in 0..DEPTH + 1 {
            leave(SOMEBODY);
        }
        fresh.touch(410..415);
        leave(SOMEBODY);
        leave(SOMEBODY);
        assert_eq!(faults(Section::Spill) - before[Section::Spill as usize], 5);
        assert_eq!(round(500), [7, 0, 40, 20]);

        // The descriptors are the thread's, and go with it.
        let slot = ThreadSlot::of(SOMEBODY).expect("it has counted");
        let (leader, id) = (slot.groups[0].leader(), slot.groups[0].ids[0].load(Ordering::Relaxed));
        assert!(leader >= FIRST_DESCRIPTOR.load(Ordering::Relaxed));
        assert_eq!(events::id(leader), Some(id));
        thread_ends(SOMEBODY);
        assert_ne!(events::id(leader), Some(id));
        assert!(ThreadSlot::of(SOMEBODY).is_none());
        assert_eq!(OPEN_THREADS.load(Ordering::Relaxed), 0);

        what_has_no_room_is_said();
    }

    /// Another part of the same test: it changes what all threads share.
    fn what_has_no_room_is_said() {
        let uncounted = || counts().uncounted[Section::Spill as usize];
        let before = uncounted();
        let limit = MAX_OPEN_THREADS.swap(0, Ordering::Relaxed);
        for _ in 0..2 {
            enter(Section::Spill, SOMEBODY);
            leave(SOMEBODY);
        }
        assert_eq!(uncounted() - before, 2);
        thread_ends(SOMEBODY);
        MAX_OPEN_THREADS.store(limit, Ordering::Relaxed);

        // So many at the same place that there is none for the last.
        let crowd: Vec<usize> = (1..=REACH).map(|i| SOMEBODY + i).collect();
        crowd.iter().for_each(|&thread| assert!(ThreadSlot::claim(thread).is_some()));
        enter(Section::Spill, SOMEBODY);
        leave(SOMEBODY);
        assert_eq!(uncounted() - before, 3);
        crowd.into_iter().for_each(thread_ends);
        assert_eq!(OPEN_THREADS.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn events_that_took_turns_are_scaled_over_all_sections() {
        let unseen = AtomicU64::new(0);
        let passed = |count, enabled, running| {
            share(&unseen, GroupCounts { enabled, running, counts: [count; GROUP_EVENTS] })
        };
        assert_eq!(passed(10, 100, 100), Some((100, 100)));
        // Two that were not seen, and one that was: it stands for all three.
        assert_eq!(passed(0, 100, 0), None);
        assert_eq!(passed(0, 50, 0), None);
        assert_eq!(passed(10, 100, 100), Some((250, 100)));
        assert_eq!(passed(10, 100, 50), Some((100, 50)));
    }
}
