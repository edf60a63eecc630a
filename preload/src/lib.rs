//! The C allocation interface, for `LD_PRELOAD`.
//!
//! Every function that glibc lets a program replace, with glibc's own meaning where the standards
//! leave one open. C++'s `operator new` and `delete` are left to the C++ library: they call `malloc`,
//! `aligned_alloc` and `free`, which are these, and theirs know about `new_handler` and `bad_alloc`.
//!
//! This is the only place with `no_mangle`, and nothing but argument checks happens here, and one
//! question to the loader: where this library is, whose functions are no part of its users' stacks.

mod atfork;
mod exit;

use core::ffi::{c_int, c_void};
use core::ptr;

use slackwater::malloc;
use slackwater::size_class::GRANULE;
use slackwater::units::PAGE_BYTES;

/// When the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    slackwater::unwind::leave_out_this_library();
}

fn set_errno(value: c_int) {
    // SAFETY: libc's location function has no preconditions.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: it returns the address of the thread's own errno.
    unsafe { *location = value };
}

/// `malloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(bytes: usize) -> *mut c_void {
    malloc::allocate(bytes).cast()
}

/// `free(3)`. Leaves `errno` alone.
///
/// # Safety
/// `block` is null or a block of this allocator that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `cfree`: the old name of `free`.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `free_sized` (C23). The size is a hint that is not needed.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _bytes: usize) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `free_aligned_sized` (C23). Size and alignment are hints that are not needed.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _bytes: usize) {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::free(block.cast()) };
}

/// `calloc(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes) {
        Some(bytes) => malloc::allocate_zeroed(bytes, GRANULE).cast(),
        None => malloc::refuse().cast(),
    }
}

/// `realloc(3)`. As in glibc, a size of 0 frees and returns null.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(bytes);
    }
    if bytes == 0 {
        // SAFETY: the caller's contract is the same.
        unsafe { malloc::free(block.cast()) };
        return ptr::null_mut();
    }
    // SAFETY: the caller vouches for the block; C makes no promise about a larger alignment.
    unsafe { malloc::reallocate(block.cast(), bytes, GRANULE) }.cast()
}

/// `reallocarray(3)`.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    bytes: usize,
) -> *mut c_void {
    match count.checked_mul(bytes) {
        // SAFETY: the caller's contract is the same.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => malloc::refuse().cast(),
    }
}

/// `posix_memalign(3)`. Returns the error and leaves `errno` and `*result` alone.
///
/// # Safety
/// `result` is a valid place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    result: *mut *mut c_void,
    align: usize,
    bytes: usize,
) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = malloc::allocate_aligned(bytes, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller says that the place is valid.
    unsafe { *result = block.cast() };
    0
}

/// `aligned_alloc(3)`. As in glibc, the size need not be a multiple of the alignment.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    malloc::allocate_aligned(bytes, align).cast()
}

/// `memalign(3)`. As in glibc, an alignment that is no power of two counts as the next one.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => malloc::allocate_aligned(bytes, align).cast(),
        None => {
            set_errno(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

/// `valloc(3)`: aligned to a page.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(bytes: usize) -> *mut c_void {
    malloc::allocate_aligned(bytes, PAGE_BYTES).cast()
}

/// `pvalloc(3)`: whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
    match bytes.max(1).checked_next_multiple_of(PAGE_BYTES) {
        Some(bytes) => valloc(bytes),
        None => malloc::refuse().cast(),
    }
}

/// `malloc_usable_size(3)`.
///
/// # Safety
/// `block` is null or a block in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the caller's contract is the same.
    unsafe { malloc::usable_bytes(block.cast()) }
}

/// `malloc_trim(3)`: gives back all that can be; 1 if that was anything. There is no top to pad.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    (slackwater::release_now().get() > 0) as c_int
}

/// `mallopt(3)`: glibc's parameters mean nothing here. Returns 1 as for a success, for programs that
/// tune glibc and check.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}

/// `mallinfo2(3)`. `arena` is the address space in use, `uordblks` what live blocks take, `fordblks`
/// what could be allocated without growing, `keepcost` what a trim would give back.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let snapshot = slackwater::snapshot();
    let memory = snapshot.memory_bytes;
    let used = (memory.live + memory.rounding + memory.sampled) as usize;
    libc::mallinfo2 {
        arena: (snapshot.mapped_bytes + memory.sampled) as usize,
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: used,
        fordblks: (snapshot.mapped_bytes + memory.sampled).saturating_sub(used as u64) as usize,
        keepcost: memory.dirty as usize,
    }
}

/// `mallinfo(3)`: [`mallinfo2`] in numbers that overflow at 2 GiB, where they stay at the largest.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let wide = mallinfo2();
    let narrow = |value: usize| c_int::try_from(value).unwrap_or(c_int::MAX);
    libc::mallinfo {
        arena: narrow(wide.arena),
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: narrow(wide.uordblks),
        fordblks: narrow(wide.fordblks),
        keepcost: narrow(wide.keepcost),
    }
}

/// `malloc_info(3)`: the heap's figures as XML. -1 with `EINVAL` if `options` is not 0.
///
/// # Safety
/// `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        set_errno(libc::EINVAL);
        return -1;
    }
    let s = slackwater::snapshot();
    let memory = s.memory_bytes;
    let format = c"<malloc version=\"slackwater-1\">\n\
        <total type=\"live\" size=\"%llu\"/>\n\
        <total type=\"rounding\" size=\"%llu\"/>\n\
        <total type=\"free_blocks\" size=\"%llu\"/>\n\
        <total type=\"thread_cache\" size=\"%llu\"/>\n\
        <total type=\"dirty\" size=\"%llu\"/>\n\
        <total type=\"metadata\" size=\"%llu\"/>\n\
        <total type=\"sampled\" size=\"%llu\"/>\n\
        <system type=\"current\" size=\"%llu\"/>\n\
        </malloc>\n";
    // SAFETY: the stream is open, and the format takes eight unsigned long longs.
    let written = unsafe {
        libc::fprintf(
            stream,
            format.as_ptr(),
            memory.live,
            memory.rounding,
            memory.free_blocks,
            memory.thread_cache,
            memory.dirty,
            memory.metadata,
            memory.sampled,
            s.mapped_bytes,
        )
    };
    if written < 0 { -1 } else { 0 }
}

/// `malloc_stats(3)`: the heap's figures on stderr.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    let s = slackwater::snapshot();
    let m = s.memory_bytes;
    eprintln!(
        "slackwater: live={} rounding={} free_blocks={} thread_cache={} dirty={} metadata={} \
         sampled={} mapped={} purged_pages={}",
        m.live,
        m.rounding,
        m.free_blocks,
        m.thread_cache,
        m.dirty,
        m.metadata,
        m.sampled,
        s.mapped_bytes,
        s.release_purged_pages_total.sum(),
    );
}
