//! The profiler of a heap: its lock, what the lock guards, and what is done with it open.

use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::altered::AlteredSlots;
use super::call_sites::{StackId, UNKNOWN};
use super::countdown::Countdowns;
use super::observer;
use super::record::{ProfilerCounters, Sample, Tables};
use super::slots::{self, Place, Slots};
use crate::base::counter::Counter;
use crate::geometry::arena::Arena;
use crate::geometry::slot::SlotIndex;
use crate::hooks::probes;
use crate::os::lock::{Guard, Lock};
use crate::os::sequence::Sequence;
use crate::os::{self, Linux, Nanos};
use crate::pages::HeapPages;
use crate::stack::{self, MAX_FRAMES};

/// How many freed blocks' slots are left alone before one is used again. They hold no memory, but count
/// where addresses are limited: 16 MiB.
const QUARANTINE: u32 = 256;

/// So many blocks as this part of an epoch's budget of samples, and one at least, go into quarantine when they
/// are freed, with the stack that freed them. The slots of others are used again at once: this costs no system
/// call.
const QUARANTINED_ONE_IN: u64 = 4;

/// How many open pages are kept for that, and in how many slots at most.
const MAX_WARM: usize = 64;

/// What the lock guards.
///
/// # Invariants
/// - `tables` is null, or the only way to a mapping of [`Tables`].
/// - Where there are tables `fresh` is at least 1, and the samples `1..fresh` have been used; those of them that are
///   not live are either warm, or stand in the queue from `oldest` to `newest`, `waiting` of them, the one closed
///   first in front.
/// - The first `warm` of `warm_slots` have the pages open that their records name, `warm_pages` together.
pub(super) struct State {
    tables: *mut Tables,
    pub(super) slots: Slots,
    warm_slots: [SlotIndex; MAX_WARM],
    warm_pages: usize,
    /// The most pages of the heap that were ever in use when a sample was taken.
    peak_pages: u64,
    fresh: u32,
    waiting: u32,
    oldest: SlotIndex,
    newest: SlotIndex,
    /// The system has no memory for the tables.
    is_refused: bool,
}

// SAFETY: the tables belong to the state alone.
unsafe impl Send for State {}

/// The profiler of a heap.
pub(crate) struct Sampler {
    pub readings: ProfilerCounters,
    state: Lock<State>,
    /// How many samples an epoch may have, and how many there were before this one.
    budget: AtomicU64,
    paced: AtomicU64,
    /// Blocks that went into quarantine in this epoch.
    quarantined: AtomicU64,
    /// How many slots are warm.
    warm: AtomicUsize,
    pub altered: AlteredSlots,
}

impl Sampler {
    pub const fn new() -> Sampler {
        Sampler {
            readings: ProfilerCounters {
                sequence: Sequence::new(),
                tables: AtomicUsize::new(0),
                fresh: AtomicU32::new(0),
                padding: AtomicU32::new(0),
                samples: Counter::new(),
                dropped: AtomicU64::new(0),
                live_blocks: Counter::new(),
                live_pages: Counter::new(),
                started: AtomicU64::new(0),
                peak_at: AtomicU64::new(0),
                countdowns: Countdowns::new(),
            },
            state: Lock::new(State {
                tables: ptr::null_mut(),
                slots: Slots::new(),
                warm_slots: [0; MAX_WARM],
                warm_pages: 0,
                peak_pages: 0,
                fresh: 0,
                waiting: 0,
                oldest: 0,
                newest: 0,
                is_refused: false,
            }),
            budget: AtomicU64::new(0),
            paced: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            warm: AtomicUsize::new(0),
            altered: AlteredSlots::new(),
        }
    }

    pub fn countdowns(&self) -> &Countdowns {
        &self.readings.countdowns
    }

    /// Before anything is sampled.
    pub fn start(&self, rate: u64, budget: u64, has_guards: bool) {
        self.countdowns().set_seed(os::random_seed());
        self.set_rate(rate, budget);
        if !has_guards {
            self.state.lock().slots.switch_guards_off();
        }
    }

    /// Are there samples, and guards around them? For callers outside malloc.
    pub fn is_guarding(&self) -> bool {
        self.countdowns().rate() != 0 && self.state.lock().slots.has_guards()
    }

    /// What the rate should be, and how many samples there may be in an epoch.
    pub fn set_rate(&self, rate: u64, budget: u64) {
        self.countdowns().set_rate(rate);
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// A new epoch: a rate that was stretched follows what the last `epochs` would have needed. `rate` is
    /// what it should be. Whoever ticks.
    pub fn pace(&self, arena: &Arena, rate: u64, budget: u64, epochs: u64) {
        let samples = self.readings.samples.get();
        let done = samples.saturating_sub(self.paced.swap(samples, Ordering::Relaxed));
        let now = self.countdowns().rate();
        self.set_rate(relaxed_rate(now, rate, done / epochs.max(1), budget), budget);
        self.quarantined.store(0, Ordering::Relaxed);
        if done == 0 && self.warm.load(Ordering::Relaxed) > 0 {
            self.close_warm(arena);
        }
    }

    /// Gives the pages of warm slots back: none is needed now.
    #[cold]
    fn close_warm(&self, arena: &Arena) {
        let Some(state) = self.state.lock_unless_mine() else { return };
        Open { sampler: self, state, touched: 0 }.close_warm(arena);
    }

    /// Frees the lock from a thread that is not there, for this process is a copy of its own; and makes whole what
    /// that was at, if it was a tick.
    ///
    /// # Safety
    /// As [`Lock::free_from_ghost`].
    pub unsafe fn mend(&self, arena: &Arena) {
        // SAFETY: the caller says so; what it guards is made whole below.
        if !unsafe { self.state.free_from_ghost() } {
            return;
        }
        self.readings.sequence.end_ghosts_change();
        let state = self.state.lock();
        if !state.tables.is_null() {
            let mut open = Open { sampler: self, state, touched: 0 };
            open.close_warm(arena);
            open.rebuild_queue();
        }
    }

    /// A sample has been taken. Each time the budget of an epoch is used up, the next samples are twice
    /// as far apart.
    fn stretch(&self, samples: u64) {
        let done = samples.saturating_sub(self.paced.load(Ordering::Relaxed));
        // None: an epoch has begun since that sample was counted.
        if done > 0 && done.is_multiple_of(self.budget.load(Ordering::Relaxed).max(1)) {
            let countdowns = self.countdowns();
            countdowns.set_rate(countdowns.rate().saturating_mul(2));
        }
    }

    /// Walks the invariants.
    #[cfg(test)]
    pub fn check(&self) {
        let state = self.state.lock();
        if state.tables.is_null() {
            return;
        }
        // SAFETY: locked.
        let tables = unsafe { &*state.tables };
        tables.stacks.check();
        let used = &tables.samples[1..state.fresh as usize];
        let waiting = used.iter().filter(|sample| !sample.is_live()).count();
        let warm = self.warm.load(Ordering::Relaxed);
        assert_eq!(waiting, state.waiting as usize + warm, "what is not live is in quarantine");
        let warm_slots = &state.warm_slots[..warm];
        assert!(warm_slots.iter().all(|&index| !tables.samples[index as usize].is_live()));
        let mut index = state.oldest;
        for _ in 0..state.waiting {
            let sample = &tables.samples[index as usize];
            assert!(!sample.is_live(), "nothing live is in quarantine");
            index = sample.next;
        }
        let live = || used.iter().filter(|sample| sample.is_live());
        let in_slots = || live().filter(|sample| sample.is_in_slot());
        let pages: usize = in_slots().map(|sample| sample.place().pages()).sum();
        let warm_pages =
            warm_slots.iter().map(|&index| tables.samples[index as usize].place().pages());
        assert_eq!(warm_pages.sum::<usize>(), state.warm_pages);
        assert!(state.warm_pages <= MAX_WARM);
        let readings = &self.readings;
        assert_eq!(readings.live_blocks.get(), in_slots().count() as u64);
        assert_eq!(readings.live_pages.get(), (pages + state.warm_pages) as u64);
        let live_bytes: u64 = live().map(|sample| sample.amount.bytes).sum();
        let stacks = &tables.stacks.entries[..tables.stacks.used as usize];
        let by_stack: u64 = stacks.iter().map(|entry| entry.figures.live().bytes).sum();
        assert_eq!(by_stack, live_bytes, "stacks and samples agree");
    }

    /// Takes the lock for a fork, and gives it back.
    pub fn lock_for_fork(&self) {
        self.state.lock_for_fork();
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller says so.
        unsafe { self.state.unlock_after_fork() };
    }

    /// Is this a signal handler that interrupted its thread here?
    pub fn is_interrupted(&self) -> bool {
        self.state.is_mine()
    }

    pub(super) fn drop_one<T>(&self) -> Option<T> {
        self.readings.dropped.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The state with its tables, if there is memory for them. `None` too in a signal handler that
    /// interrupted its thread here.
    pub(super) fn lock(&self, pages: &HeapPages) -> Option<Open<'_>> {
        let mut state = self.state.lock_unless_mine()?;
        if state.tables.is_null() {
            if state.is_refused {
                return None;
            }
            let Some(memory) = make_tables(&pages.arena) else {
                state.is_refused = true;
                return None;
            };
            state.tables = memory as *mut Tables;
            state.fresh = 1;
            self.readings.tables.store(memory, Ordering::Relaxed);
            self.readings.started.store(os::precise_now().0, Ordering::Relaxed);
            let mut open = Open { sampler: self, state, touched: 0 };
            open.account(pages);
            return Some(open);
        }
        let touched = used_bytes(&state);
        Some(Open { sampler: self, state, touched })
    }
}

/// The next rate, where `rate` is wanted, `now` holds, and so many samples were taken an epoch: one at
/// which the like of it would take three quarters of the budget.
fn relaxed_rate(now: u64, rate: u64, samples: u64, budget: u64) -> u64 {
    let wanted = (budget / 4 * 3).max(1);
    if rate == 0 || now < rate {
        rate
    } else if samples < wanted {
        let scaled = now as u128 * samples as u128 / wanted as u128;
        (scaled as u64).max(now / 2).max(rate)
    } else {
        now
    }
}

/// Tables without a sample, and where they are. `None`: the system has no memory for them.
fn make_tables(arena: &Arena) -> Option<usize> {
    let memory = os::map_metadata(size_of::<Tables>())?;
    let tables = memory as *mut Tables;
    // SAFETY: as large as they are, all zero, and nobody else's.
    let tables = unsafe { &mut *tables };
    // SAFETY: a heap has one sampler, which does this until it succeeds.
    let is_ready = unsafe { tables.make_ready(arena.tables()) };
    is_ready.then_some(memory)
}

/// Bytes of the tables that have been touched, more or less.
fn used_bytes(state: &State) -> usize {
    // SAFETY: the state is locked by the caller, and not null where this is called.
    let tables = unsafe { &*state.tables };
    tables.stacks.used_bytes()
        + tables.modules.used_bytes()
        + state.fresh as usize * size_of::<Sample>()
}

/// The sampler, locked, with its tables.
pub(super) struct Open<'a> {
    sampler: &'a Sampler,
    pub(super) state: Guard<'a, State>,
    /// Bytes of the tables that had been touched when it was locked.
    touched: usize,
}

impl Open<'_> {
    pub(super) fn tables(&mut self) -> &mut Tables {
        // SAFETY: `state` is locked, so this is the only reference, and not null (`Sampler::lock`).
        unsafe { &mut *self.state.tables }
    }

    /// Changes what readers from outside see.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let sequence = &self.sampler.readings.sequence;
        sequence.write(|| change(self.tables()))
    }

    /// Counts what has been touched of the tables as the allocator's own memory.
    pub(super) fn account(&mut self, pages: &HeapPages) {
        let touched = used_bytes(&self.state);
        pages.metadata.add_used(touched.saturating_sub(self.touched));
        self.touched = touched;
    }

    /// The stack on which something is allocated: that which leads to `frame`, unless it is the observer's.
    pub(super) fn allocating_stack(&mut self, frame: usize) -> StackId {
        if observer::is_this_thread() { self.intern(&[observer::FRAME]) } else { self.stack(frame) }
    }

    /// The stack that leads to `frame`, as it is in the table.
    pub(super) fn stack(&mut self, frame: usize) -> StackId {
        let mut frames = [0; MAX_FRAMES];
        let depth = stack::capture(&mut self.tables().scratch, &mut frames, frame);
        self.change(|tables| tables.modules.mark(&mut frames[..depth], stack::is_by_tables()));
        self.intern(&frames[..depth])
    }

    fn intern(&mut self, frames: &[u64]) -> StackId {
        let id = self.change(|tables| tables.stacks.intern(frames));
        id.unwrap_or_else(|| {
            self.sampler.readings.dropped.fetch_add(1, Ordering::Relaxed);
            UNKNOWN
        })
    }

    /// A slot in which just the pages of `place` are open.
    fn take_warm(&mut self, place: &Place) -> Option<SlotIndex> {
        let warm = self.sampler.warm.load(Ordering::Relaxed);
        let has_these = |open: &mut Self, at: usize| {
            let index = open.state.warm_slots[at] as usize;
            open.tables().samples[index].place().has_the_pages_of(place)
        };
        // The one that was freed last is in the processor's cache.
        let at = (0..warm).rev().find(|&at| has_these(self, at))?;
        let index = self.state.warm_slots[at];
        self.state.warm_slots.copy_within(at + 1..warm, at);
        self.sampler.warm.store(warm - 1, Ordering::Relaxed);
        self.forget_warm(place.pages());
        Some(index)
    }

    /// So many pages are open in warm slots no more. A copy of the process may have found them counted already.
    fn forget_warm(&mut self, pages: usize) {
        self.state.warm_pages = self.state.warm_pages.saturating_sub(pages);
        self.sampler.readings.live_pages.subtract(pages as u64);
    }

    /// Closes all slots that are kept open. Each leaves them when it is closed, for a copy of the process may find this
    /// half done.
    fn close_warm(&mut self, arena: &Arena) {
        while let Some(last) = self.sampler.warm.load(Ordering::Relaxed).checked_sub(1) {
            let index = self.state.warm_slots[last];
            let place = self.tables().samples[index as usize].place();
            self.state.slots.close(&Linux, index, slots::address(arena, index), &place);
            self.sampler.warm.store(last, Ordering::Relaxed);
            self.forget_warm(place.pages());
            self.put(index);
        }
    }

    /// Puts every sample that is not live behind the others anew, and counts open pages. No slot is warm.
    fn rebuild_queue(&mut self) {
        (self.state.waiting, self.state.oldest, self.state.newest) = (0, 0, 0);
        self.state.warm_pages = 0;
        let mut open_pages = 0;
        for index in 1..self.state.fresh as SlotIndex {
            let sample = self.tables().samples[index as usize];
            if !sample.is_live() {
                self.put(index);
            } else if sample.is_in_slot() {
                open_pages += sample.place().pages() as u64;
            }
        }
        self.sampler.readings.live_pages.set(open_pages);
    }

    /// Keeps the slot of a block that was freed, as far as it is open. `false`: there are enough.
    pub(super) fn put_warm(&mut self, index: SlotIndex, place: &Place) -> bool {
        let warm = self.sampler.warm.load(Ordering::Relaxed);
        if self.state.warm_pages + place.pages() > MAX_WARM {
            return false;
        }
        self.state.warm_slots[warm] = index;
        self.sampler.warm.store(warm + 1, Ordering::Relaxed);
        self.state.warm_pages += place.pages();
        self.sampler.readings.live_pages.add(place.pages() as u64);
        true
    }

    /// Should a block that is freed now go into quarantine?
    pub(super) fn has_quarantine(&mut self) -> bool {
        let done = self.sampler.quarantined.load(Ordering::Relaxed);
        let most = (self.sampler.budget.load(Ordering::Relaxed) / QUARANTINED_ONE_IN).max(1);
        let has = done < most;
        self.sampler.quarantined.store(done + has as u64, Ordering::Relaxed);
        has
    }

    /// A sample that is not in use: the one freed longest ago, once there are enough of those.
    pub(super) fn take(&mut self, slots: u32) -> Option<SlotIndex> {
        let fresh = self.state.fresh;
        let has_fresh = self.state.waiting < QUARANTINE && fresh < slots;
        if has_fresh && self.tables().samples.reach(fresh as usize + 1) {
            self.state.fresh += 1;
            let fresh = self.state.fresh;
            // Release: partner of the Acquire in `live_in_slot`.
            self.sampler.readings.fresh.store(fresh, Ordering::Release);
            return Some((fresh - 1) as SlotIndex);
        }
        if self.state.waiting == 0 {
            return None;
        }
        let index = self.state.oldest;
        self.state.oldest = self.tables().samples[index as usize].next;
        self.state.waiting -= 1;
        Some(index)
    }

    /// Puts one that is not in use behind all others.
    pub(super) fn put(&mut self, index: SlotIndex) {
        if self.state.waiting == 0 {
            self.state.oldest = index;
        } else {
            let newest = self.state.newest as usize;
            self.tables().samples[newest].next = index;
        }
        self.state.newest = index;
        self.state.waiting += 1;
    }

    /// A slot for `bytes`, at least one, and the block's address there; all behind it is [`slots::PAD`].
    pub(super) fn open_slot(
        &mut self,
        arena: &Arena,
        bytes: usize,
        align: usize,
    ) -> Option<(SlotIndex, usize, Place)> {
        let place = Place::of(bytes, align);
        let warm = self.take_warm(&place);
        let index = warm.or_else(|| self.take(slots::count(arena)))?;
        let slot = slots::address(arena, index);
        if warm.is_none() && !self.state.slots.open(&Linux, arena, index, &place) {
            self.put(index);
            return None;
        }
        let address = slot + place.offset;
        slots::fill_pad(address, bytes, &place);
        Some((index, address, place))
    }

    /// Fills in sample `index`, and counts it. The heap has so many pages in use.
    pub(super) fn record_allocation(&mut self, index: SlotIndex, sample: Sample, used_pages: u64) {
        // By what is exactly known: the highest of many estimates would be one that is too high.
        let is_peak = used_pages > self.state.peak_pages;
        self.change(|tables| {
            tables.samples[index as usize] = sample;
            tables.stacks.allocated(sample.stack, sample.amount);
            if is_peak {
                tables.stacks.record_peak();
            }
        });
        let readings = &self.sampler.readings;
        if is_peak {
            readings.peak_at.store(sample.allocated_at, Ordering::Relaxed);
            self.state.peak_pages = used_pages;
        }
        readings.samples.add(1);
        self.sampler.stretch(readings.samples.get());
        if sample.is_in_slot() {
            readings.live_blocks.add(1);
            readings.live_pages.add(sample.place().pages() as u64);
        }
        let Sample { address, bytes, amount, stack, .. } = sample;
        probes::sample_alloc(address, bytes, amount.bytes, stack.0 as u64);
    }

    /// Counts the end of sample `index`.
    pub(super) fn record_free(&mut self, index: SlotIndex, freed_stack: StackId) {
        let (now, thread) = (os::precise_now(), os::known_thread());
        let sample = self.change(|tables| {
            let sample = &mut tables.samples[index as usize];
            sample.freed_at = now.0.max(1);
            sample.freed_stack = freed_stack;
            sample.freed_thread = thread;
            let nanos = now.since(Nanos(sample.allocated_at)).0;
            tables.stacks.freed(sample.stack, sample.amount, nanos);
            *sample
        });
        let readings = &self.sampler.readings;
        if sample.is_in_slot() {
            readings.live_blocks.subtract(1);
            readings.live_pages.subtract(sample.place().pages() as u64);
        }
        let age = Nanos(sample.freed_at).since(Nanos(sample.allocated_at));
        probes::sample_free(sample.address, sample.bytes, age.micros());
    }

    /// The block of sample `index`, which is live, is elsewhere in its slot from now on and has another size. It is
    /// counted as before.
    pub(super) fn record_move(
        &mut self,
        index: SlotIndex,
        address: usize,
        bytes: usize,
        place: &Place,
    ) {
        let before = self.change(|tables| {
            let sample = &mut tables.samples[index as usize];
            let before = sample.place();
            (sample.address, sample.bytes) = (address as u64, bytes as u64);
            (sample.first_page, sample.end_page) = (place.first_page as u8, place.end_page as u8);
            before
        });
        let more = place.pages() - before.pages();
        self.sampler.readings.live_pages.add(more as u64);
    }
}

#[cfg(test)]
mod tests;
