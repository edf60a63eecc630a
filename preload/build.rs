//! How the preload library is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // An address is a place in the file, as far as code goes. perf (6.1) takes one for the other where it looks for
    // static probes; lld saves a page for it otherwise. Other linkers do it anyway.
    println!("cargo::rustc-link-arg=-Wl,-z,separate-code");
    // The loader never unloads it, and need not be asked for that when it is loaded.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    // Nothing is done when it is loaded but what it does itself: the compiler's own code for that looks for functions
    // that hardly any process has. What it has for others is in `src/loaded.rs`.
    println!("cargo::rustc-link-arg-cdylib=-nostartfiles");
}
