//! What the heap tells a program of itself in C: `mallinfo`, `malloc_info`, `malloc_stats`.
//!
//! The latter two write as glibc's do, to a stream. One that cannot be written to keeps the error, and harms nobody.
//! A thread may be cancelled where it writes to a stream of the program's. So these have the ABI through which
//! that may unwind; they hold nothing meanwhile.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr;

use crate::next::Next;

type Print = unsafe extern "C-unwind" fn(*mut libc::FILE, *const c_char, ...) -> c_int;
type SetCancelState = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;

// What hardly any program needs is looked for when it is asked for: never in a signal's handler, where nobody may
// write to a stream.

/// libc's stream of this name, or what the program has put in its place.
static STDERR: Next = Next::named(c"stderr");
static FPRINTF: Next = Next::named(c"fprintf");
static PTHREAD_SETCANCELSTATE: Next = Next::named(c"pthread_setcancelstate");

/// Of `<pthread.h>`: no request to end this thread is followed.
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// `mallinfo2(3)`. `arena` is the address space in use, `uordblks` what live blocks take, `fordblks`
/// what could be allocated without growing, `keepcost` what a trim would give back.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    totals()
}

/// `mallinfo(3)`: [`mallinfo2`] in numbers that overflow at 2 GiB, where they stay at the largest.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    narrow(&totals())
}

pub fn totals() -> libc::mallinfo2 {
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

pub fn narrow(wide: &libc::mallinfo2) -> libc::mallinfo {
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

/// `malloc_info(3)`: the heap's figures as XML. `EINVAL`, and not in `errno`, if `options` is not 0. As in glibc, 0
/// whatever becomes of the text: the stream knows.
///
/// # Safety
/// `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    const FORMAT: &CStr = c"<malloc version=\"slackwater-1\">\n\
        <total type=\"live\" size=\"%llu\"/>\n\
        <total type=\"rounding\" size=\"%llu\"/>\n\
        <total type=\"free_blocks\" size=\"%llu\"/>\n\
        <total type=\"thread_cache\" size=\"%llu\"/>\n\
        <total type=\"dirty\" size=\"%llu\"/>\n\
        <total type=\"metadata\" size=\"%llu\"/>\n\
        <total type=\"sampled\" size=\"%llu\"/>\n\
        <system type=\"current\" size=\"%llu\"/>\n\
        </malloc>\n";
    // SAFETY: the stream is open, and the format takes eight of the nine.
    unsafe { print(stream, FORMAT.as_ptr()) };
    0
}

/// `malloc_stats(3)`: the heap's figures on stderr. As in glibc, no thread is cancelled here.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn malloc_stats() {
    const FORMAT: &CStr =
        c"slackwater: live=%llu rounding=%llu free_blocks=%llu thread_cache=%llu \
        dirty=%llu metadata=%llu sampled=%llu mapped=%llu purged_pages=%llu\n";
    let mut before = 0;
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let set_state =
        unsafe { transmute::<*mut c_void, Option<SetCancelState>>(PTHREAD_SETCANCELSTATE.first()) };
    // SAFETY: null, which is none, or libc's variable, which is read as any program does.
    let stream = unsafe { STDERR.first().cast::<*mut libc::FILE>().as_ref() };
    let (Some(set_state), Some(&stream)) = (set_state, stream) else { return };
    // SAFETY: the state is one that there is, and there is a place for the one before.
    unsafe { set_state(PTHREAD_CANCEL_DISABLE, &raw mut before) };
    // SAFETY: the stream is open (or else the program may not ask), and the format takes all nine.
    unsafe { print(stream, FORMAT.as_ptr()) };
    // SAFETY: the state is the thread's own of before.
    unsafe { set_state(before, ptr::null_mut()) };
}

/// Writes what both tell: the bytes of each kind, what is mapped, and the pages that were given back.
///
/// # Safety
/// The stream is open, and the format is a text with a zero at its end that takes up to nine unsigned long longs.
unsafe extern "C-unwind" fn print(stream: *mut libc::FILE, format: *const c_char) {
    // SAFETY: null, which is none, or the function of that name, which has this type.
    let print = unsafe { transmute::<*mut c_void, Option<Print>>(FPRINTF.first()) };
    let Some(print) = print else { return };
    let snapshot = slackwater::snapshot();
    let memory = snapshot.memory_bytes;
    // SAFETY: the caller says so; what a format does not take is left out.
    unsafe {
        print(
            stream,
            format,
            memory.live,
            memory.rounding,
            memory.free_blocks,
            memory.thread_cache,
            memory.dirty,
            memory.metadata,
            memory.sampled,
            snapshot.mapped_bytes,
            snapshot.release_purged_pages_total.sum(),
        )
    };
}
