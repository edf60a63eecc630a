//! Lays executables and shared objects out so that an address is a place in the file, as far as code
//! goes. perf (6.1) takes one for the other where it looks for static probes; lld saves a page
//! for it otherwise. Other linkers do it anyway.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,-z,separate-code");
}
