//! The modules that were on sampled stacks, each as it was when it was first seen there.
//!
//! An address alone does not say what was called: a plugin that is unloaded leaves its addresses to the
//! next one. So a return address is kept with the number of its module in its high bits, which are of no
//! use to an address, and stacks of different modules at the same addresses are different stacks.

use super::growing_array::GrowingArray;
use crate::base::units::PAGE_BYTES;
use crate::os;
use crate::os::loader::{self, Module};
use crate::stack::Scratch;

/// How many there is room for. Each costs memory only once it is there.
pub(crate) const MAX_MODULES: usize = 1 << 10;

/// A power of two well above [`MAX_MODULES`]: the hash table is never full.
const BUCKETS: usize = MAX_MODULES * 2;

/// Longer build ids are cut, and of longer names the end is kept.
const MAX_BUILD_ID_BYTES: usize = 32;
const MAX_NAME_BYTES: usize = 432;

/// The bits of a return address that are the address; the others are the number of its module.
const ADDRESS_BITS: u32 = 48;

/// The number of a module for which there was no room.
pub(crate) const UNRECORDED: u16 = MAX_MODULES as u16 + 1;

/// One module. All-zero memory is an unused one.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ModuleEntry {
    identity: u64,
    pub start: u64,
    pub end: u64,
    /// What was added to its own addresses.
    pub bias: u64,
    pub build_id_bytes: u32,
    pub name_bytes: u32,
    pub build_id: [u8; MAX_BUILD_ID_BYTES],
    /// Not the path that it was found at if it was loaded by a relative one.
    pub name: [u8; MAX_NAME_BYTES],
    /// What its first page comes to, as [`loader::contents_of`] has it.
    pub contents: u64,
}

const _: () = assert!(size_of::<ModuleEntry>() == 512);

impl ModuleEntry {
    fn new(module: &Module) -> ModuleEntry {
        let (build_id, name) = (module.build_id(), module.name());
        let build_id = &build_id[..build_id.len().min(MAX_BUILD_ID_BYTES)];
        let name = &name[name.len().saturating_sub(MAX_NAME_BYTES)..];
        let mut entry = ModuleEntry {
            identity: module.identity,
            start: module.start,
            end: module.end,
            bias: module.bias(),
            build_id_bytes: build_id.len() as u32,
            name_bytes: name.len() as u32,
            build_id: [0; MAX_BUILD_ID_BYTES],
            name: [0; MAX_NAME_BYTES],
            contents: module.contents(),
        };
        entry.build_id[..build_id.len()].copy_from_slice(build_id);
        entry.name[..name.len()].copy_from_slice(name);
        entry
    }
}

/// All modules. All-zero memory is an empty table.
///
/// # Invariants
/// Each of `entries[..used]`, which never change, has one bucket, reached from its identity without
/// passing an empty one; the number there, which is that in addresses, is its place plus one.
#[repr(C)]
pub(crate) struct ModuleTable {
    pub used: u32,
    padding: u32,
    /// 0 for an empty bucket.
    buckets: [u16; BUCKETS],
    pub entries: GrowingArray<ModuleEntry>,
}

impl ModuleTable {
    /// The addresses that the table may need besides its own.
    pub const BYTES: usize = GrowingArray::<ModuleEntry>::bytes_for(MAX_MODULES);

    /// Before its first use; `addresses` is the first of [`ModuleTable::BYTES`] unused ones.
    ///
    /// # Safety
    /// Nobody else uses these addresses.
    pub unsafe fn make_ready(&mut self, addresses: usize) {
        // SAFETY: the caller says so, and an entry is nothing but numbers.
        unsafe { self.entries.set_aside(addresses, MAX_MODULES) };
    }

    /// Adds to each return address the number of the module that it is in, if the loader knows one. Only
    /// lasting modules are looked at unless `all` may be: those of the calling thread's stack.
    ///
    /// Costs some ten nanoseconds for each change from a module to another.
    pub fn mark(&mut self, frames: &mut [u64], all: bool) {
        let lasting = (!all).then(loader::lasting);
        let mut latest: Option<(Module, u16)> = None;
        for frame in frames {
            *frame &= (1 << ADDRESS_BITS) - 1;
            // A call may be the last instruction of its module.
            let call = frame.wrapping_sub(1);
            if !latest.is_some_and(|(module, _)| module.contains(call)) {
                let may_be_read = lasting.is_none_or(|lasting| {
                    loader::start_of(call).is_some_and(|start| lasting.contains(&start))
                });
                let module = may_be_read.then(|| loader::module_of(call)).flatten();
                latest = module.map(|module| (module, self.number_of(&module)));
            }
            if let Some((_, number)) = latest {
                *frame |= (number as u64) << ADDRESS_BITS;
            }
        }
    }

    fn number_of(&mut self, module: &Module) -> u16 {
        let mut bucket = (module.identity >> 32) as usize % BUCKETS;
        while self.buckets[bucket] != 0 {
            let number = self.buckets[bucket];
            if self.entries[number as usize - 1].identity == module.identity {
                return number;
            }
            bucket = (bucket + 1) % BUCKETS;
        }
        if !self.entries.reach(self.used as usize + 1) {
            return UNRECORDED;
        }
        self.entries[self.used as usize] = ModuleEntry::new(module);
        self.used += 1;
        self.buckets[bucket] = self.used as u16;
        self.used as u16
    }

    /// Whether what is mapped where the module of this return address was is that module: its first page is
    /// what it was. The page is copied, for nothing keeps it from being unmapped.
    pub fn is_as_it_was(&self, frame: u64, scratch: &mut Scratch) -> bool {
        let (_, number) = split(frame);
        if number == 0 {
            return true;
        }
        self.entry(number).is_some_and(|entry| {
            let page = &mut scratch.words()[..PAGE_BYTES / 8];
            os::read_own_page(entry.start as usize, page)
                && loader::contents_of_words(page.iter().copied()) == entry.contents
        })
    }

    /// The module of that number; `None` for 0 and [`UNRECORDED`].
    pub fn entry(&self, number: u16) -> Option<&ModuleEntry> {
        self.entries[..self.used as usize].get((number as usize).checked_sub(1)?)
    }

    /// Bytes of the table that have been touched.
    pub fn used_bytes(&self) -> usize {
        self.used as usize * size_of::<ModuleEntry>()
    }
}

/// A return address, and the number of its module; 0 if it was in none that the loader knows.
pub(crate) fn split(frame: u64) -> (u64, u16) {
    (frame & ((1 << ADDRESS_BITS) - 1), (frame >> ADDRESS_BITS) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::growing_array::addresses_for_a_test;

    fn table() -> Box<ModuleTable> {
        // SAFETY: all-zero is an empty table.
        let mut table = unsafe { Box::<ModuleTable>::new_zeroed().assume_init() };
        // SAFETY: nobody else has these addresses.
        unsafe { table.make_ready(addresses_for_a_test()) };
        table
    }

    fn module(identity: u64) -> Module {
        let mut module = loader::module_of(table as *const () as u64).expect("this program");
        module.identity = identity;
        module
    }

    #[test]
    fn addresses_are_marked_by_module() {
        if !loader::is_there() {
            return;
        }
        let mut table = table();
        let own = table_of_this_test as *const () as u64 + 1;
        let libc = libc::atoi as *const () as u64 + 1;
        let mut frames = [own, libc, 8, own, u64::MAX];
        table.mark(&mut frames, true);
        let numbers = frames.map(|frame| split(frame).1);
        assert_eq!(numbers, [1, 2, 0, 1, 0]);
        assert_eq!(frames.map(|frame| split(frame).0)[..4], [own, libc, 8, own]);
        assert!(table.entry(0).is_none() && table.entry(3).is_none());
        let entry = table.entry(2).expect("libc");
        assert!((entry.start..entry.end).contains(&libc));
        assert!(entry.name_bytes > 0);
        let mut scratch = Box::new(Scratch::new());
        assert!(frames.iter().all(|&frame| table.is_as_it_was(frame, &mut scratch)));
        table.entries[1].contents ^= 1;
        assert!(!table.is_as_it_was(frames[1], &mut scratch), "another library was there");
        table.entries[0].start = 8;
        assert!(!table.is_as_it_was(frames[0], &mut scratch), "nothing is there any more");
        // Of a stack that may be anything only those that cannot go away are looked at.
        let mut same = frames.map(|frame| split(frame).0);
        table.mark(&mut same, false);
        assert_eq!(same.map(|frame| split(frame).1), numbers);
    }

    fn table_of_this_test() {}

    #[test]
    fn a_full_table_knows_the_old_ones_and_says_of_new_ones_that_it_does_not() {
        if !loader::is_there() {
            return;
        }
        let mut table = table();
        for round in 0..2 {
            for n in 0..MAX_MODULES as u64 {
                let number = table.number_of(&module(n << 30 | 7));
                assert_eq!(number as u64, n + 1, "{round}");
            }
        }
        assert_eq!(table.number_of(&module(5)), UNRECORDED);
        assert!(table.entry(UNRECORDED).is_none());
        let unrecorded = 8 | (UNRECORDED as u64) << ADDRESS_BITS;
        assert!(!table.is_as_it_was(unrecorded, &mut Box::new(Scratch::new())));
        assert_eq!(table.used_bytes(), size_of_val(&*table.entries));
    }
}
