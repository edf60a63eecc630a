//! Sampling: some allocations, chosen by chance, are remembered with their call stacks.
//!
//! ```text
//!  countdown ends ──► stack is walked ──► stacks: figures by call site ──► profiles
//!                                    ├──► modules: what was loaded where
//!                                    └──► samples: the live ones, and those in quarantine
//!                                              └──► slot: a block on pages of its own, against a guard
//! ```
//!
//! A sampled block of up to 32 KiB lies in a slot, where `free` recognizes it at no cost to others. A
//! larger one stays where it is, on its own pages anyhow, and is sampled so often that a guard would
//! keep it from growing in place.
//!
//! All of this is behind one lock and happens some hundred times a second at most: samples are taken at
//! larger distances when there would be more. What is kept here is read from outside the
//! allocator, by [`crate::figures::remote`], without the lock.

mod call_sites;
mod countdown;
mod misuse;
mod modules;
pub mod observer;
mod slots;

use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use crate::base::units::{PAGE_BYTES, SPAN_BYTES};
use crate::geometry::arena::Arena;
use crate::geometry::size_class::SizeClass;
use crate::geometry::slot::{MAX_SLOTS, SlotIndex};
use crate::hooks::probes;
use crate::os::lock::{Guard, Lock};
use crate::os::{self, Linux, Nanos};
use crate::pages::HeapPages;
use crate::pages::metadata::Metadata;
use crate::stack::{self, MAX_FRAMES, Registers, Scratch};

pub(crate) use call_sites::{
    ALL_FRAMES, Amount, LIFETIMES, MAX_STACKS, OBJECT, StackEntry, StackFigures, StackTable,
};
use call_sites::{StackId, UNKNOWN};
pub(crate) use countdown::{Countdown, Countdowns, LONGEST};
use misuse::Misuse;
pub(crate) use modules::{MAX_MODULES, ModuleEntry, ModuleTable, UNRECORDED, split};
use slots::{Place, Slots, WARM};

/// How many freed blocks' slots are left alone before one is used again. They hold no memory, but count
/// where addresses are limited: 16 MiB.
const QUARANTINE: u32 = 256;

/// A part of the samples of an epoch goes into quarantine, with the stack that freed it. The slots of
/// others are used again at once: this costs no system call.
const QUARANTINED_ONE_IN: u64 = 4;

/// How many slots of one open page are kept for that.
const MAX_WARM: usize = 64;

/// Bytes behind a block, up to its page's end, hold this until it is freed.
const PAD: u8 = 0xa5;

/// One sampled allocation, live or in quarantine. All-zero memory is one that never was used.
///
/// # Invariants
/// Live: `freed_at` is 0. It lies in its slot where `end_page` is not 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Sample {
    pub address: u64,
    pub bytes: u64,
    /// What it stands for.
    pub amount: Amount,
    pub allocated_at: u64,
    pub freed_at: u64,
    pub stack: StackId,
    freed_stack: StackId,
    thread: u32,
    freed_thread: u32,
    first_page: u8,
    end_page: u8,
    /// In quarantine: the one that was freed next.
    next: SlotIndex,
    /// In a slot: the class that it would have as an ordinary block.
    class: SizeClass,
}

impl Sample {
    fn place(&self) -> Place {
        Place {
            offset: self.address as usize % SPAN_BYTES,
            first_page: self.first_page as usize,
            end_page: self.end_page as usize,
        }
    }

    fn is_in_slot(&self) -> bool {
        self.end_page != 0
    }

    pub fn is_live(&self) -> bool {
        self.address != 0 && self.freed_at == 0
    }
}

/// What does not fit into the static records: mapped when the first sample is taken.
#[repr(C)]
pub(crate) struct Tables {
    pub stacks: StackTable,
    pub modules: ModuleTable,
    pub samples: [Sample; MAX_SLOTS as usize + 1],
    scratch: Scratch,
}

/// What the lock guards.
///
/// # Invariants
/// - `tables` is null, or the only way to a mapping of [`Tables`].
/// - The samples `1..fresh` have been used; those of them that are not live are either warm, or stand in
///   the queue from `oldest` to `newest`, `waiting` of them, the one closed first in front.
/// - The slots of the first `warm` of `warm_slots` have their last page but one open.
struct State {
    tables: *mut Tables,
    slots: Slots,
    warm_slots: [SlotIndex; MAX_WARM],
    /// The most pages of the heap that were ever in use when a sample was taken.
    peak_pages: u64,
    fresh: u32,
    waiting: u32,
    oldest: SlotIndex,
    newest: SlotIndex,
    /// The system has no memory for the tables.
    is_refused: bool,
    /// What is to be called when the first guarded block is handed out: it installs the handler of faults.
    watch_faults: Option<fn()>,
}

// SAFETY: the tables belong to the state alone.
unsafe impl Send for State {}

/// Figures that are read without the lock, and from outside.
///
/// # Invariants
/// `sequence` is odd while tables change. The others are written with the lock held, but for `dropped`.
#[repr(C)]
pub(crate) struct Readings {
    pub sequence: AtomicU64,
    pub tables: AtomicUsize,
    /// Samples `1..fresh` have been used.
    pub fresh: AtomicU32,
    padding: AtomicU32,
    pub samples: AtomicU64,
    /// Those that could not be kept, or whose stack could not.
    pub dropped: AtomicU64,
    /// Live samples in slots; their pages, and those kept open.
    pub live_blocks: AtomicU64,
    pub live_pages: AtomicU64,
    pub started: AtomicU64,
    pub peak_at: AtomicU64,
    pub countdowns: Countdowns,
}

/// The profiler of a heap.
pub(crate) struct Sampler {
    pub readings: Readings,
    state: Lock<State>,
    /// How many samples an epoch may have, and how many there were before this one.
    budget: AtomicU64,
    paced: AtomicU64,
    /// Blocks that went into quarantine in this epoch.
    quarantined: AtomicU64,
    /// How many slots are warm.
    warm: AtomicUsize,
}

impl Sampler {
    pub const fn new() -> Sampler {
        Sampler {
            readings: Readings {
                sequence: AtomicU64::new(0),
                tables: AtomicUsize::new(0),
                fresh: AtomicU32::new(0),
                padding: AtomicU32::new(0),
                samples: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                live_blocks: AtomicU64::new(0),
                live_pages: AtomicU64::new(0),
                started: AtomicU64::new(0),
                peak_at: AtomicU64::new(0),
                countdowns: Countdowns::new(),
            },
            state: Lock::new(State {
                tables: ptr::null_mut(),
                slots: Slots::new(),
                warm_slots: [0; MAX_WARM],
                peak_pages: 0,
                fresh: 1,
                waiting: 0,
                oldest: 0,
                newest: 0,
                is_refused: false,
                watch_faults: None,
            }),
            budget: AtomicU64::new(u64::MAX),
            paced: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            warm: AtomicUsize::new(0),
        }
    }

    pub fn countdowns(&self) -> &Countdowns {
        &self.readings.countdowns
    }

    /// Before anything is sampled. `watch_faults` installs the handler of faults; without it there are no guards.
    pub fn start(&self, rate: u64, budget: u64, watch_faults: Option<fn()>) {
        self.countdowns().set_seed(os::random_seed());
        self.set_rate(rate, budget);
        let mut state = self.state.lock();
        state.watch_faults = watch_faults;
        if watch_faults.is_none() {
            state.slots.switch_guards_off();
        }
    }

    /// What the rate should be, and how many samples there may be in an epoch.
    pub fn set_rate(&self, rate: u64, budget: u64) {
        self.countdowns().set_rate(rate);
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// A new epoch: a rate that was stretched follows what the last `epochs` would have needed. `rate` is
    /// what it should be. Whoever ticks.
    pub fn pace(&self, arena: &Arena, rate: u64, budget: u64, epochs: u64) {
        let samples = self.readings.samples.load(Ordering::Relaxed);
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
        let mut open = Open { sampler: self, state, touched: 0 };
        while let Some(index) = open.take_warm() {
            open.state.slots.close(&Linux, index, slot_address(arena, index), &WARM);
            open.put(index);
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
        let readings = &self.readings;
        assert_eq!(readings.live_blocks.load(Ordering::Relaxed), in_slots().count() as u64);
        assert_eq!(readings.live_pages.load(Ordering::Relaxed), (pages + warm) as u64);
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

    fn drop_one<T>(&self) -> Option<T> {
        self.readings.dropped.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The state with its tables, if there is memory for them. `None` too in a signal handler that
    /// interrupted its thread here.
    fn lock(&self, metadata: &Metadata) -> Option<Open<'_>> {
        let mut state = self.state.lock_unless_mine()?;
        if state.tables.is_null() {
            if state.is_refused {
                return None;
            }
            let Some(memory) = os::map_metadata(size_of::<Tables>()) else {
                state.is_refused = true;
                return None;
            };
            state.tables = memory as *mut Tables;
            self.readings.tables.store(memory, Ordering::Relaxed);
            self.readings.started.store(os::precise_now().0, Ordering::Relaxed);
            let mut open = Open { sampler: self, state, touched: 0 };
            open.change(|tables| tables.stacks.make_ready());
            open.account(metadata);
            return Some(open);
        }
        let touched = touched_bytes(&state);
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

/// Bytes of the tables that have been touched, more or less.
fn touched_bytes(state: &State) -> usize {
    // SAFETY: the state is locked by the caller, and not null where this is called.
    let tables = unsafe { &*state.tables };
    tables.stacks.touched_bytes()
        + tables.modules.touched_bytes()
        + state.fresh as usize * size_of::<Sample>()
}

/// The sampler, locked, with its tables.
struct Open<'a> {
    sampler: &'a Sampler,
    state: Guard<'a, State>,
    /// Bytes of the tables that had been touched when it was locked.
    touched: usize,
}

impl Open<'_> {
    fn tables(&mut self) -> &mut Tables {
        // SAFETY: `state` is locked, so this is the only reference, and not null (`Sampler::lock`).
        unsafe { &mut *self.state.tables }
    }

    /// Changes what readers from outside see.
    fn change<T>(&mut self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let sequence = &self.sampler.readings.sequence;
        let before = sequence.load(Ordering::Relaxed);
        sequence.store(before + 1, Ordering::Relaxed);
        // Release: a reader that sees a change below also sees the odd sequence.
        fence(Ordering::Release);
        let result = change(self.tables());
        // Release: partner of the reader's second look.
        sequence.store(before + 2, Ordering::Release);
        result
    }

    /// Counts what has been touched of the tables as the allocator's own memory.
    fn account(&mut self, metadata: &Metadata) {
        let touched = touched_bytes(&self.state);
        metadata.add_touched(touched.saturating_sub(self.touched));
        self.touched = touched;
    }

    /// The stack on which something is allocated: that which leads to `frame`, unless it is the observer's.
    fn allocating_stack(&mut self, frame: usize) -> StackId {
        if observer::is_this_thread() { self.intern(&[observer::FRAME]) } else { self.stack(frame) }
    }

    /// The stack that leads to `frame`, as it is in the table.
    fn stack(&mut self, frame: usize) -> StackId {
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

    /// A slot whose last page but one is open.
    fn take_warm(&mut self) -> Option<SlotIndex> {
        let warm = self.sampler.warm.load(Ordering::Relaxed).checked_sub(1)?;
        self.sampler.warm.store(warm, Ordering::Relaxed);
        subtract(&self.sampler.readings.live_pages, 1);
        Some(self.state.warm_slots[warm])
    }

    /// Keeps a slot whose last page but one is open. `false`: there are enough.
    fn put_warm(&mut self, index: SlotIndex) -> bool {
        let warm = self.sampler.warm.load(Ordering::Relaxed);
        if warm == MAX_WARM {
            return false;
        }
        self.state.warm_slots[warm] = index;
        self.sampler.warm.store(warm + 1, Ordering::Relaxed);
        add(&self.sampler.readings.live_pages, 1);
        true
    }

    /// Should a block that is freed now go into quarantine?
    fn has_quarantine(&mut self) -> bool {
        let done = self.sampler.quarantined.load(Ordering::Relaxed);
        let has = done < self.sampler.budget.load(Ordering::Relaxed) / QUARANTINED_ONE_IN;
        self.sampler.quarantined.store(done + has as u64, Ordering::Relaxed);
        has
    }

    /// A sample that is not in use: the one freed longest ago, once there are enough of those.
    fn take(&mut self, slots: u32) -> Option<SlotIndex> {
        if self.state.waiting < QUARANTINE && self.state.fresh < slots {
            self.state.fresh += 1;
            let fresh = self.state.fresh;
            self.sampler.readings.fresh.store(fresh, Ordering::Relaxed);
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
    fn put(&mut self, index: SlotIndex) {
        if self.state.waiting == 0 {
            self.state.oldest = index;
        } else {
            let newest = self.state.newest as usize;
            self.tables().samples[newest].next = index;
        }
        self.state.newest = index;
        self.state.waiting += 1;
    }

    /// A slot for `bytes`, at least one, and the block's address there; all behind it is [`PAD`].
    fn open_slot(
        &mut self,
        arena: &Arena,
        bytes: usize,
        align: usize,
    ) -> Option<(SlotIndex, usize, Place)> {
        let place = Place::of(bytes, align);
        let warm = if place.is_warm() { self.take_warm() } else { None };
        let index = warm.or_else(|| self.take(slots(arena)))?;
        let slot = slot_address(arena, index);
        if warm.is_none() && !self.state.slots.open(&Linux, index, slot, &place) {
            self.put(index);
            return None;
        }
        let address = slot + place.offset;
        fill_pad(address, bytes, &place);
        Some((index, address, place))
    }

    /// Fills in sample `index`, and counts it. The heap has so many pages in use.
    fn note_allocated(&mut self, index: SlotIndex, sample: Sample, used_pages: u64) {
        // By what is exactly known: the highest of many estimates would be one that is too high.
        let is_peak = used_pages > self.state.peak_pages;
        self.change(|tables| {
            tables.samples[index as usize] = sample;
            tables.stacks.allocated(sample.stack, sample.amount);
            if is_peak {
                tables.stacks.note_peak();
            }
        });
        let readings = &self.sampler.readings;
        if is_peak {
            readings.peak_at.store(sample.allocated_at, Ordering::Relaxed);
            self.state.peak_pages = used_pages;
        }
        add(&readings.samples, 1);
        self.sampler.stretch(readings.samples.load(Ordering::Relaxed));
        if sample.is_in_slot() {
            add(&readings.live_blocks, 1);
            add(&readings.live_pages, sample.place().pages() as u64);
        }
        let Sample { address, bytes, amount, stack, .. } = sample;
        probes::sample_alloc(address, bytes, amount.bytes, stack.0 as u64);
    }

    /// Counts the end of sample `index`.
    fn note_freed(&mut self, index: SlotIndex, freed_stack: StackId) {
        let (now, thread) = (os::precise_now(), os::thread());
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
            subtract(&readings.live_blocks, 1);
            subtract(&readings.live_pages, sample.place().pages() as u64);
        }
        let age = Nanos(sample.freed_at).since(Nanos(sample.allocated_at));
        probes::sample_free(sample.address, sample.bytes, age.micros());
    }

    /// Sample `from`, which is live, lies in slot `to` from now on. It is counted as before; its old slot
    /// is put into quarantine.
    fn note_moved(&mut self, from: SlotIndex, to: SlotIndex, moved: Sample, stack: StackId) {
        let (now, thread) = (os::precise_now(), os::thread());
        let old = self.change(|tables| {
            let old = &mut tables.samples[from as usize];
            old.freed_at = now.0.max(1);
            old.freed_stack = stack;
            old.freed_thread = thread;
            let old = *old;
            tables.samples[to as usize] = moved;
            old
        });
        let live_pages = &self.sampler.readings.live_pages;
        add(live_pages, moved.place().pages() as u64);
        subtract(live_pages, old.place().pages() as u64);
        self.put(from);
    }
}

/// For numbers that have one writer at a time.
fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn subtract(number: &AtomicU64, less: u64) {
    add(number, less.wrapping_neg());
}

/// What a sample of `bytes` at `rate` stands for.
fn amount(bytes: usize, rate: u32) -> Amount {
    let weight = countdown::weight(bytes as u64, rate);
    Amount { objects: (weight * OBJECT + 0.5) as u64, bytes: (weight * bytes as f64 + 0.5) as u64 }
}

fn new_sample(
    address: usize,
    bytes: usize,
    amount: Amount,
    stack: StackId,
    place: Place,
    class: SizeClass,
) -> Sample {
    Sample {
        address: address as u64,
        bytes: bytes as u64,
        amount,
        allocated_at: os::precise_now().0,
        freed_at: 0,
        stack,
        freed_stack: UNKNOWN,
        thread: os::thread(),
        freed_thread: 0,
        first_page: place.first_page as u8,
        end_page: place.end_page as u8,
        next: 0,
        class,
    }
}

/// Slots there are addresses for, the unused one in front included.
fn slots(arena: &Arena) -> u32 {
    (arena.sample_range().bytes / SPAN_BYTES) as u32
}

/// The address of slot `index`.
fn slot_address(arena: &Arena, index: SlotIndex) -> usize {
    arena.sample_range().start + index as usize * SPAN_BYTES
}

/// The slot that `address`, a sample's, lies in.
fn slot_of(arena: &Arena, address: usize) -> SlotIndex {
    // Below MAX_SLOTS + 1: there are no more addresses of samples.
    ((address - arena.sample_range().start) / SPAN_BYTES) as SlotIndex
}

/// Fills what is behind a block of `bytes`, up to its last page's end, which is open.
fn fill_pad(address: usize, bytes: usize, place: &Place) {
    let pad = (address + bytes) as *mut u8;
    // SAFETY: from the block's end to its last page's, which was opened for it.
    unsafe { ptr::write_bytes(pad, PAD, place.slack(bytes)) };
}

/// The first byte behind a sample's block that has been written to.
fn first_touched(sample: &Sample, place: &Place) -> Option<usize> {
    let end = sample.address as usize + sample.bytes as usize;
    let pad = end as *const u8;
    // SAFETY: these bytes are its pages', which are open while it is live.
    let pad = unsafe { core::slice::from_raw_parts(pad, place.slack(sample.bytes as usize)) };
    pad.iter().position(|&byte| byte != PAD).map(|offset| end + offset)
}

impl Sampler {
    /// A sampled block of up to 32 KiB, aligned to `align`; `None` if it cannot be had, and should be an
    /// ordinary one. `frame` is an address in the frame of the function that the program has
    /// called ([`stack::address_in_frame`]).
    #[cold]
    pub fn allocate(
        &self,
        pages: &HeapPages,
        metadata: &Metadata,
        bytes: usize,
        align: usize,
        rate: u32,
        frame: usize,
    ) -> Option<*mut u8> {
        let amount = amount(bytes, rate);
        // One of 0 bytes has a place, too.
        let bytes = bytes.max(1);
        let Some(mut open) = self.lock(metadata) else { return self.drop_one() };
        if let Some(watch_faults) = open.state.watch_faults.take() {
            watch_faults();
        }
        let slot = open.open_slot(&pages.arena, bytes, align);
        let Some((index, address, place)) = slot else { return self.drop_one() };
        let stack = open.allocating_stack(frame);
        let class = SizeClass::for_layout(bytes, align).unwrap_or(SizeClass::NONE);
        let sample = new_sample(address, bytes, amount, stack, place, class);
        open.note_allocated(index, sample, pages.totals.figures().used_pages.get());
        open.account(metadata);
        Some(address as *mut u8)
    }

    /// Frees the sampled block at `address`, which is a sample's. What is none is a caller's mistake that
    /// ends the process. A signal handler that interrupted its thread here leaves the block as it is.
    #[cold]
    pub fn free(&self, pages: &HeapPages, metadata: &Metadata, address: usize, frame: usize) {
        let Some(mut open) = self.lock(metadata) else { return };
        let index = slot_of(&pages.arena, address);
        let sample = open.tables().samples[index as usize];
        if sample.address != address as u64 || !sample.is_in_slot() {
            let stack = open.stack(frame);
            misuse::fail(&mut open, Misuse::NoBlock, address, None, stack);
        }
        if !sample.is_live() {
            let stack = open.stack(frame);
            misuse::fail(&mut open, Misuse::DoubleFree, address, Some(index), stack);
        }
        let place = sample.place();
        if let Some(touched) = first_touched(&sample, &place) {
            let stack = open.stack(frame);
            misuse::report(&mut open, Misuse::Overflow, touched, Some(index), stack);
        }
        let is_quarantined = open.has_quarantine();
        let stack = if is_quarantined { open.stack(frame) } else { UNKNOWN };
        open.note_freed(index, stack);
        if is_quarantined || !place.is_warm() || !open.put_warm(index) {
            open.state.slots.close(&Linux, index, slot_address(&pages.arena, index), &place);
            open.put(index);
        }
        open.account(metadata);
    }

    /// Gives the sampled block at `address` another size, in the class that it has: an ordinary block stays
    /// where it is then, uncounted, so that this remains the sample that it is, if in another slot. Returns
    /// where it is now. `None`: it must become another block, or is none.
    #[cold]
    pub fn resize(
        &self,
        pages: &HeapPages,
        metadata: &Metadata,
        address: usize,
        bytes: usize,
        align: usize,
        class: SizeClass,
        frame: usize,
    ) -> Option<*mut u8> {
        let bytes = bytes.max(1);
        let mut open = self.lock(metadata)?;
        let index = slot_of(&pages.arena, address);
        let sample = open.tables().samples[index as usize];
        let is_its = sample.address == address as u64 && sample.is_in_slot() && sample.is_live();
        if !is_its || sample.class != class {
            return None;
        }
        let place = sample.place();
        if let Some(touched) = first_touched(&sample, &place) {
            let stack = open.stack(frame);
            misuse::report(&mut open, Misuse::Overflow, touched, Some(index), stack);
        }
        if place.has_room_for(bytes) {
            open.change(|tables| tables.samples[index as usize].bytes = bytes as u64);
            fill_pad(address, bytes, &place);
            return Some(address as *mut u8);
        }
        let slot = open.open_slot(&pages.arena, bytes, align);
        let Some((to, moved, its_place)) = slot else { return self.drop_one() };
        let (from, size) = (address as *const u8, bytes.min(sample.bytes as usize));
        // SAFETY: both blocks have so many bytes, in different slots.
        unsafe { ptr::copy_nonoverlapping(from, moved as *mut u8, size) };
        let stack = open.stack(frame);
        let moved_sample = Sample {
            address: moved as u64,
            bytes: bytes as u64,
            first_page: its_place.first_page as u8,
            end_page: its_place.end_page as u8,
            ..sample
        };
        open.note_moved(index, to, moved_sample, stack);
        open.state.slots.close(&Linux, index, slot_address(&pages.arena, index), &place);
        open.account(metadata);
        Some(moved as *mut u8)
    }

    /// How many bytes the sampled block at `address` has: what was asked for, and 1 at least. 0 in a signal handler that
    /// interrupted its thread here.
    #[cold]
    pub fn usable_bytes(&self, pages: &HeapPages, metadata: &Metadata, address: usize) -> usize {
        let Some(mut open) = self.lock(metadata) else { return 0 };
        let index = slot_of(&pages.arena, address);
        let sample = open.tables().samples[index as usize];
        if sample.address != address as u64 || !sample.is_live() || !sample.is_in_slot() {
            misuse::fail(&mut open, Misuse::NoBlock, address, None, UNKNOWN);
        }
        sample.bytes as usize
    }

    /// Remembers a large block where it is. `None`: there is no room for it.
    #[cold]
    pub fn note_large(
        &self,
        pages: &HeapPages,
        metadata: &Metadata,
        address: usize,
        bytes: usize,
        rate: u32,
        frame: usize,
    ) -> Option<SlotIndex> {
        let Some(mut open) = self.lock(metadata) else { return self.drop_one() };
        let Some(index) = open.take(slots(&pages.arena)) else { return self.drop_one() };
        let stack = open.allocating_stack(frame);
        let nowhere = Place { offset: 0, first_page: 0, end_page: 0 };
        let (amount, class) = (amount(bytes, rate), SizeClass::NONE);
        let sample = new_sample(address, bytes, amount, stack, nowhere, class);
        open.note_allocated(index, sample, pages.totals.figures().used_pages.get());
        open.account(metadata);
        Some(index)
    }

    /// The end of a large block, which was remembered as sample `index`, or not (0).
    pub fn forget_large(&self, metadata: &Metadata, index: SlotIndex) {
        if index == 0 {
            return;
        }
        // A signal handler that interrupted its thread here leaves the sample: it seems to live on.
        if let Some(mut open) = self.lock(metadata) {
            open.note_freed(index, UNKNOWN);
            open.put(index);
        }
    }

    /// Tells on standard error what an access at `address` means, an address among the slots. In the handler of
    /// the fault.
    pub fn explain_fault(
        &self,
        pages: &HeapPages,
        metadata: &Metadata,
        address: usize,
        registers: Registers,
    ) {
        misuse::explain_fault(self.lock(metadata), &pages.arena, address, registers);
    }
}

const _: () = assert!(size_of::<Sample>() == 72 && PAGE_BYTES * 16 == SPAN_BYTES);

#[cfg(test)]
mod tests;
