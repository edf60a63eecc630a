//! What is mapped where in a process: the programs and libraries that addresses in it belong to.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use slackwater::remote::{self, LoadedModule, Memory, UNRECORDED_MODULE};
use slackwater::units::PAGE_BYTES;

use crate::kernel::elf::Module;
use crate::kernel::mappings::MapsLine;

/// The type of the note (named `GNU`) by which linkers tell builds apart.
const BUILD_ID: u32 = 3;

/// Names longer than this are cut.
const MAX_BUILD_ID_BYTES: usize = 64;

/// Stands for all modules of which the sampler had no room to say more.
pub(super) const UNRECORDED: &str = "[unrecorded]";

/// A part of a file (or the kernel's vdso) of which something can be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// One past its last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// What is added to the file's own addresses here.
    pub bias: u64,
    /// The file's name, in the process's own mount namespace; `[vdso]` and the like for what is no
    /// file.
    pub path: String,
    /// The file has been deleted, or replaced by another of this name.
    pub is_deleted: bool,
    /// It was mapped when it was on a sampled stack, and is no longer. Its addresses have the number of its
    /// module in their high bits.
    pub is_unloaded: bool,
    /// Its inode; 0 for what is no file, or not known.
    pub inode: u64,
    /// What its linker called this very build, in hexadecimal digits; empty if it did not.
    pub build_id: String,
}

impl Mapping {
    /// What is no longer mapped, or may not be: its addresses have the number of its module in their high
    /// bits, so that they are nobody else's.
    fn apart(number: u16, addresses: Range<u64>, bias: u64, path: String) -> Mapping {
        let high_bits = (number as u64) << 48;
        Mapping {
            start: high_bits | addresses.start,
            end: high_bits + addresses.end,
            offset: 0,
            bias: high_bits.wrapping_add(bias),
            path,
            is_deleted: false,
            is_unloaded: false,
            inode: 0,
            build_id: String::new(),
        }
    }

    /// Code that is in no file: the program has compiled it.
    pub fn is_compiled(&self) -> bool {
        self.inode == 0 && !self.path.starts_with('[') && !self.is_unloaded
    }

    /// The last part of the name.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The address as the file has it, in its symbols and in what is printed of it.
    pub fn own_address(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// The address as `addr2line` and the like take it: `name+0xaddress`.
    pub fn place(&self, address: u64) -> String {
        let unloaded = if self.is_unloaded { " (unloaded)" } else { "" };
        format!("{}{unloaded}+{:#x}", self.name(), self.own_address(address))
    }
}

/// The mappings of a process that can be executed, and those of modules on its stacks that no longer are
/// mapped, in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    mappings: Vec<Mapping>,
    /// The process, as `/proc` names it; `None` for those that were not read from one.
    process: Option<u32>,
}

impl Modules {
    /// Reads the mappings of a process, and from its memory the names of their builds.
    ///
    /// # Errors
    ///
    /// When `/proc/PID/maps` cannot be read.
    pub fn read(process: u32, memory: &impl Memory) -> io::Result<Modules> {
        let maps = fs::read(format!("/proc/{process}/maps"))?;
        let mut modules = Modules::parse(&String::from_utf8_lossy(&maps));
        modules.process = Some(process);
        for i in 0..modules.mappings.len() {
            // Where the file's first bytes are.
            let start = modules.mappings[i].bias;
            let (bias, build_id) = match Module::read(memory, start) {
                Some(module) => (module.bias(), build_id(memory, &module)),
                None => continue,
            };
            let mapping = &mut modules.mappings[i];
            (mapping.bias, mapping.build_id) = (bias, build_id);
        }
        Ok(modules)
    }

    /// Reads the text of a `/proc/PID/maps`. Lines that are none are left out.
    pub fn parse(maps: &str) -> Modules {
        let mut mappings = Vec::new();
        // The beginning of the file whose mappings these are.
        let mut first: Option<MapsLine<'_>> = None;
        for line in maps.lines().filter_map(MapsLine::parse).filter(|line| !line.name.is_empty()) {
            let is_same_file =
                |first: MapsLine<'_>| (first.file(), first.name) == (line.file(), line.name);
            if !first.is_some_and(is_same_file) || line.offset == 0 {
                first = Some(line);
            }
            if line.is_executable() {
                // As for a file whose addresses are its offsets.
                let origin = first.unwrap_or(line);
                mappings.push(mapping_of(&line, origin.start.wrapping_sub(origin.offset)));
            }
        }
        Modules { mappings, process: None }
    }

    /// Whether what was loaded then is loaded now, at the same place: by its build, or by its first page.
    fn has(memory: &impl Memory, then: &LoadedModule<'_>) -> bool {
        if !then.build_id.is_empty() {
            let now = Module::read(memory, then.start);
            return now.is_some_and(|now| build_id(memory, &now) == hex(then.build_id));
        }
        let mut page = vec![0; PAGE_BYTES];
        memory.read(then.start, &mut page) && remote::page_contents(&page) == then.contents
    }

    /// Adds a module that was on a stack, unless it is still there; says whether it is.
    pub(super) fn add(&mut self, memory: &impl Memory, then: &LoadedModule<'_>) -> bool {
        if Modules::has(memory, then) {
            return true;
        }
        let name = String::from_utf8_lossy(then.name).into_owned();
        // By a name without a folder it was looked for in many.
        let path = match self.process.filter(|_| name.contains('/') && !name.starts_with('/')) {
            None => name,
            Some(process) => {
                let folder = fs::read_link(format!("/proc/{process}/cwd")).unwrap_or_default();
                folder.join(name.trim_start_matches("./")).to_string_lossy().into_owned()
            }
        };
        let (number, addresses) = (then.number, then.start..then.end);
        self.insert(Mapping {
            is_unloaded: true,
            build_id: hex(then.build_id),
            ..Mapping::apart(number, addresses, then.bias, path)
        });
        false
    }

    /// Adds all that was in modules of which the sampler had no room to say more; nobody knows whether they
    /// are still there.
    pub(super) fn add_unrecorded(&mut self) {
        let path = UNRECORDED.to_string();
        self.insert(Mapping::apart(UNRECORDED_MODULE, 0..1 << 48, 0, path));
    }

    fn insert(&mut self, mapping: Mapping) {
        let after = self.mappings.partition_point(|known| known.start < mapping.start);
        self.mappings.insert(after, mapping);
    }

    /// All of them.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The process that they were read from.
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// The place in [`Modules::mappings`] of the one that `address` is in.
    pub fn find(&self, address: u64) -> Option<usize> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        let found = after.checked_sub(1)?;
        (address < self.mappings[found].end).then_some(found)
    }

    /// The address as people find it: in a module, or by itself.
    pub fn place(&self, address: u64) -> String {
        match self.find(address) {
            Some(found) => self.mappings[found].place(address),
            None => format!("{address:#x}"),
        }
    }

    /// Where the file of a mapping may be opened from here, the surest first. Whether it is the one
    /// that is mapped must be looked at: it may have been replaced.
    pub fn files(&self, mapping: &Mapping) -> Vec<PathBuf> {
        let Some(process) = self.process else { return Vec::new() };
        let proc = PathBuf::from(format!("/proc/{process}"));
        let path = mapping.path.trim_start_matches('/');
        let mut files = vec![proc.join("root").join(path)];
        if mapping.is_unloaded {
            // Without a build id nobody knows whether the file is the one that was loaded.
            let is_known = mapping.path.starts_with('/') && !mapping.build_id.is_empty();
            files.push(PathBuf::from(&mapping.path));
            return if is_known { files } else { Vec::new() };
        }
        if mapping.inode == 0 {
            return Vec::new();
        }
        // The very file, whatever became of its name; for root alone.
        files.push(proc.join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end)));
        if fs::read_link(proc.join("exe"))
            .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(DELETED) == mapping.path)
        {
            files.push(proc.join("exe"));
        }
        // For a process that has ended, and was in this mount namespace.
        files.push(PathBuf::from(&mapping.path));
        files
    }

    /// Where separate debug files are: the process's own folders first.
    pub fn debug_folders(&self) -> Vec<PathBuf> {
        let root = self.process.map(|process| format!("/proc/{process}/root"));
        let roots = root.into_iter().chain([String::new()]);
        roots.flat_map(|root| DEBUG_FOLDERS.map(|at| PathBuf::from(root.clone() + at))).collect()
    }
}

/// Where distributions have their debug files.
const DEBUG_FOLDERS: [&str; 2] = ["/usr/lib/debug", "/lib/debug"];

/// What the kernel adds to the name of a file that has been deleted.
const DELETED: &str = " (deleted)";

/// A line of `/proc/PID/maps` as a mapping with this bias.
fn mapping_of(line: &MapsLine<'_>, bias: u64) -> Mapping {
    let path = line.name.strip_suffix(DELETED);
    Mapping {
        start: line.start,
        end: line.end,
        offset: line.offset,
        bias,
        path: path.unwrap_or(line.name).to_string(),
        is_deleted: path.is_some(),
        is_unloaded: false,
        inode: line.inode,
        build_id: String::new(),
    }
}

/// The build id of a module, in hexadecimal digits; empty if it has none.
fn build_id(memory: &impl Memory, module: &Module) -> String {
    let mut found = String::new();
    module.each_note(memory, &mut |note| {
        if note.name == b"GNU\0" && note.kind == BUILD_ID && found.is_empty() {
            found = hex(note.content);
        }
    });
    found
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_BUILD_ID_BYTES)];
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::memory::ProcessMemoryReader;

    const MAPS: &str = "00400000-00401000 r--p 00000000 fe:01 11         /srv/my app (deleted)\n\
        00401000-00402000 r-xp 00001000 fe:01 11         /srv/my app (deleted)\n\
        00402000-00403000 rw-p 00000000 00:00 0          [heap]\n\
        7f0000000000-7f0000001000 r-xp 00003000 fe:01 12 /lib/libx.so.1\n\
        7f0000001000-7f0000002000 r-xp 00000000 00:00 0 \n\
        7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0  [vdso]\n\
        nonsense\n";

    #[test]
    fn executable_mappings_are_found_by_address() {
        let modules = Modules::parse(MAPS);
        let names: Vec<&str> = modules.mappings().iter().map(Mapping::name).collect();
        assert_eq!(names, ["my app", "libx.so.1", "[vdso]"]);
        assert!(modules.mappings()[0].is_deleted && !modules.mappings()[1].is_deleted);
        for (address, place) in [
            (0x40_1000, "my app+0x1000"),
            (0x40_1fff, "my app+0x1fff"),
            (0x40_2000, "0x402000"),
            (0x40_0fff, "0x400fff"),
            (8, "0x8"),
            (0x7f00_0000_0010, "libx.so.1+0x3010"),
            (0x7ffd_0000_0a11, "[vdso]+0xa11"),
            (u64::MAX, "0xffffffffffffffff"),
        ] {
            assert_eq!(modules.place(address), place);
        }
    }

    #[test]
    fn this_program_has_a_build_and_a_file() {
        let process = std::process::id();
        let modules = Modules::read(process, &ProcessMemoryReader::own()).expect("readable");
        let here = this_function as *const () as u64;
        let found = modules.find(here).expect("it is executed");
        let mapping = &modules.mappings()[found];
        let exe = std::env::current_exe().expect("known");
        assert_eq!(mapping.path, exe.to_string_lossy());
        let files = modules.files(mapping);
        assert!(files[0].exists() && files.iter().any(|file| file.ends_with("exe")));
    }

    fn this_function() {}
}
