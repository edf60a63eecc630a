//! The same walk by framehop, which wants a list of modules.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::slice;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, MustNotAllocateDuringUnwind, Unwinder as _};
use slackwater::stack::{Registers, StackMemory};

type Unwinder = UnwinderX86_64<&'static [u8], MustNotAllocateDuringUnwind>;

/// An unwinder that knows the modules that were loaded when it was made.
pub struct Framehop {
    unwinder: Unwinder,
    cache: CacheX86_64<MustNotAllocateDuringUnwind>,
}

impl Framehop {
    pub fn new() -> Framehop {
        let mut unwinder = Unwinder::new();
        let place = (&raw mut unwinder).cast();
        // SAFETY: the callback takes this place for what it is, and is called before this returns.
        unsafe { libc::dl_iterate_phdr(Some(add_module), place) };
        Framehop { unwinder, cache: CacheX86_64::new_in() }
    }

    /// As [`slackwater::unwind::walk`].
    pub fn walk(
        &mut self,
        from: &Registers,
        memory: &mut dyn StackMemory,
        frames: &mut [u64],
    ) -> usize {
        let registers = UnwindRegsX86_64::new(from.pc, from.sp, from.fp);
        let mut read = |address| memory.word(address).ok_or(());
        let mut walk = self.unwinder.iter_frames(from.pc, registers, &mut self.cache, &mut read);
        // The place where it begins is the first.
        let _ = walk.next();
        let mut count = 0;
        while count < frames.len() {
            let Ok(Some(frame)) = walk.next() else { break };
            frames[count] = frame.address();
            count += 1;
        }
        count
    }
}

unsafe extern "C" fn add_module(
    info: *mut libc::dl_phdr_info,
    _: usize,
    unwinder: *mut c_void,
) -> c_int {
    // SAFETY: libc hands in one that is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `Framehop::new` hands it in, and uses it for nothing else meanwhile.
    let unwinder = unsafe { &mut *unwinder.cast::<Unwinder>() };
    // SAFETY: as libc says.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    let bias = info.dlpi_addr;
    let loaded = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD;
    let range = |header: &libc::Elf64_Phdr| header.p_vaddr..header.p_vaddr + header.p_memsz;
    let Some(first) = headers.iter().find(loaded) else { return 0 };
    let last = headers.iter().rfind(loaded).unwrap_or(first);
    let Some(header) = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME) else {
        return 0;
    };
    let bytes = |range: Range<u64>| {
        let (start, length) =
            ((bias + range.start) as *const u8, (range.end - range.start) as usize);
        // SAFETY: part of a segment that is mapped, and stays so in tests.
        unsafe { slice::from_raw_parts(start, length) }
    };
    let header_range = range(header);
    let distance = i32::from_ne_bytes(bytes(header_range.clone())[4..8].try_into().unwrap());
    let table = (header_range.start + 4).wrapping_add_signed(distance as i64);
    let segment = headers.iter().filter(loaded).find(|segment| range(segment).contains(&table));
    let Some(segment) = segment else { return 0 };
    let table_range = table..segment.p_vaddr + segment.p_filesz;
    let text = headers.iter().filter(loaded).find(|segment| segment.p_flags & libc::PF_X != 0);
    unwinder.add_module(Module::new(
        format!("{bias:x}"),
        bias + first.p_vaddr..bias + range(last).end,
        bias,
        ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: text.map(range),
            text: text.map(|text| bytes(range(text))),
            eh_frame_svma: Some(table_range.clone()),
            eh_frame: Some(bytes(table_range)),
            eh_frame_hdr_svma: Some(header_range.clone()),
            eh_frame_hdr: Some(bytes(header_range)),
            ..Default::default()
        },
    ));
    0
}
