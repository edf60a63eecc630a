//! Functions that only some C libraries have.
//!
//! Their names are weak: where a libc has no value for one, the linker and the loader let it pass. So whether it
//! is there is known before the first allocation, without a question to the loader, which would take a lock.

/// The address of the function that is called so, a `*mut c_void` that is null where this libc has none.
macro_rules! address_of {
    ($name:literal) => {{
        let address: *mut core::ffi::c_void;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: loads what the loader has stored in the module's table.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $name),
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        address
    }};
}

pub(crate) use address_of;
