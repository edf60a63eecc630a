//! What a library leaves behind that is unloaded: it is that library's, whatever is loaded at its
//! addresses after it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::{env, fs};

/// Keeps blocks, in a function of the given name.
const PLUGIN: &str = r#"
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) void *NAME(size_t bytes) {
    char *block = malloc(bytes);
    memset(block, 1, bytes);
    return block;
}

void *work(int count) {
    void **all = malloc(sizeof(void *) * count);
    for (int i = 0; i < count; i++) all[i] = NAME(20000);
    return all;
}
"#;

/// Does as it is told: `load PATH`, `work COUNT`, `unload`, `touch` a freed block; says `done` or where the
/// plugin's function is.
const HOST: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void **kept;

int main(void) {
    char line[4200];
    void *plugin = NULL;
    void *(*work)(int) = NULL;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "load ", 5) == 0) {
            plugin = dlopen(line + 5, RTLD_NOW | RTLD_LOCAL);
            if (plugin == NULL) { puts(dlerror()); return 9; }
            work = (void *(*)(int))dlsym(plugin, "work");
            printf("%p\n", (void *)work);
        } else if (strncmp(line, "work ", 5) == 0) {
            kept = work(atoi(line + 5));
            puts("done");
        } else if (strcmp(line, "unload") == 0) {
            dlclose(plugin);
            puts("done");
        } else if (strcmp(line, "touch") == 0) {
            free(kept[0]);
            *(volatile char *)kept[0] = 1;
        }
        fflush(stdout);
    }
    return 0;
}
"#;

const BLOCK_BYTES: f64 = 20_000.0;

/// A folder with the host, and the plugins that are put there. Needs a compiler.
struct Built(PathBuf);

impl Built {
    fn new(name: &str) -> Option<Built> {
        if !common::have_tool("gcc") {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unloaded-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a writable place");
        let built = Built(folder);
        built.compile(HOST, "host", &[]);
        Some(built)
    }

    fn compile(&self, source: &str, name: &str, flags: &[&str]) -> PathBuf {
        let file = self.0.join(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-O1", "-Wl,--build-id=sha1", "-xc", "-"]).args(flags);
        common::output_of(gcc.arg("-o").arg(&file).arg("-ldl"), source.as_bytes());
        file
    }

    /// A plugin in a file of that name whose function is called so.
    fn plugin(&self, name: &str, function: &str, flags: &[&str]) -> PathBuf {
        // A new file: the old one may be mapped.
        let _ = fs::remove_file(self.0.join(name));
        let flags = [&["-fPIC", "-shared"], flags].concat();
        self.compile(&PLUGIN.replace("NAME", function), name, &flags)
    }

    fn start(&self, rate_bytes: u32) -> Host {
        let mut command = common::slackwater();
        command.args(["run", "--"]).arg(self.0.join("host")).current_dir(&self.0);
        command
            .env("SLACKWATER_PROFILE_RATE_BYTES", rate_bytes.to_string())
            .env("SLACKWATER_PROFILE_EPOCH_SAMPLES", "100000");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut host = Host { child, output };
        assert_eq!(host.line(), "ready");
        host
    }
}

/// The host; killed if the test ends before it does.
struct Host {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Host {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        line.trim_end().to_string()
    }

    fn tell(&mut self, what: &str) -> String {
        let mut input = self.child.stdin.as_ref().expect("piped");
        writeln!(input, "{what}").expect("it reads");
        self.line()
    }

    /// Loads a plugin, lets it keep so many blocks; where it was.
    fn keep(&mut self, plugin: &str, count: u32) -> String {
        let place = self.tell(&format!("load {plugin}"));
        assert!(place.starts_with("0x"), "{place}");
        assert_eq!(self.tell(&format!("work {count}")), "done");
        place
    }

    fn unload(&mut self) {
        assert_eq!(self.tell("unload"), "done");
    }

    fn profile(&self, format: &str) -> String {
        let process = self.child.id().to_string();
        let mut command = common::slackwater();
        let output = command.args(["profile", &process, "--format", format]).output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        // What a profile lacks is no part of the folded form.
        let is_known = said.lines().all(|line| line.contains(" on these stacks: unloaded since"));
        assert!(output.status.success() && is_known, "{said}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the stacks with this part hold, in blocks, by a profile in the folded form.
fn blocks(folded: &str, part: &str) -> f64 {
    let values = folded.lines().filter(|line| line.contains(part)).map(|line| {
        let (_, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().expect("a number")
    });
    values.sum::<f64>() / BLOCK_BYTES
}

fn assert_about(found: f64, expected: f64, folded: &str) {
    assert!((found - expected).abs() < 0.2 * expected, "{found} for {expected}:\n{folded}");
}

/// Of a plugin that another one has taken the place of; says whether it has.
fn took_its_place(first: &str, second: &str) -> bool {
    if first != second {
        common::note("the second plugin went elsewhere: addresses were not used again");
    }
    first == second
}

#[test]
fn what_an_unloaded_plugin_keeps_is_its_own() {
    let Some(built) = Built::new("replaced") else { return };
    built.plugin("liba.so", "alpha_cache", &[]);
    built.plugin("libb.so", "omega_parser", &[]);
    let mut host = built.start(4096);
    let first = host.keep("./liba.so", 1000);
    let before = host.profile("folded");
    assert_about(blocks(&before, ";alpha_cache"), 1000.0, &before);
    assert!(!host.profile("text").contains("unloaded"));
    host.unload();
    let second = host.keep("./libb.so", 100);
    took_its_place(&first, &second);
    let after = host.profile("folded");
    assert_about(blocks(&after, ";main;work;alpha_cache"), 1000.0, &after);
    assert_about(blocks(&after, ";main;work;omega_parser"), 100.0, &after);
    let table = host.profile("text");
    assert!(table.contains("liba.so on these stacks: unloaded since"), "{table}");

    // With its file gone too, nobody knows its functions.
    fs::remove_file(built.0.join("liba.so")).expect("it was there");
    let unnamed = host.profile("folded");
    assert_about(blocks(&unnamed, ";main;liba.so (unloaded)+0x"), 1000.0, &unnamed);
    assert_about(blocks(&unnamed, ";omega_parser"), 100.0, &unnamed);
}

#[test]
fn a_plugin_that_is_built_again_is_another() {
    let Some(built) = Built::new("rebuilt") else { return };
    let file = built.plugin("plugin.so", "first_edition", &[]);
    let mut host = built.start(4096);
    let path = file.to_str().expect("text").to_string();
    let first = host.keep(&path, 500);
    host.unload();
    // Of the same name, the same sections, the same tables.
    built.plugin("plugin.so", "other_edition", &[]);
    let second = host.keep(&path, 100);
    took_its_place(&first, &second);
    let folded = host.profile("folded");
    assert_about(blocks(&folded, ";other_edition"), 100.0, &folded);
    assert_about(blocks(&folded, ";main;plugin.so (unloaded)+0x"), 500.0, &folded);
}

#[test]
fn a_plugin_that_is_loaded_again_is_the_same() {
    let Some(built) = Built::new("again") else { return };
    let file = built.plugin("plugin.so", "one_edition", &[]);
    let path = file.to_str().expect("text").to_string();
    let mut host = built.start(4096);
    for _ in 0..3 {
        host.keep(&path, 200);
        host.unload();
    }
    let folded = host.profile("folded");
    assert_about(blocks(&folded, ";main;work;one_edition"), 600.0, &folded);
    host.keep(&path, 200);
    let folded = host.profile("folded");
    assert_about(blocks(&folded, ";main;work;one_edition"), 800.0, &folded);
}

/// Without a build id nobody knows whether a file is the one that was loaded.
#[test]
fn a_file_that_may_be_another_is_not_asked() {
    let Some(built) = Built::new("nameless") else { return };
    let nameless = ["-Wl,--build-id=none"];
    built.plugin("liba.so", "alpha_cache", &nameless);
    built.plugin("libb.so", "omega_parser", &nameless);
    let mut host = built.start(4096);
    let first = host.keep("./liba.so", 500);
    let before = host.profile("folded");
    assert_about(blocks(&before, ";alpha_cache"), 500.0, &before);
    host.unload();
    let second = host.keep("./libb.so", 100);
    took_its_place(&first, &second);
    let after = host.profile("folded");
    assert_about(blocks(&after, ";main;liba.so (unloaded)+0x"), 500.0, &after);
    assert_about(blocks(&after, ";omega_parser"), 100.0, &after);
}

/// Of the same name, in other folders, one after the other in the same place.
#[test]
fn files_of_one_name_without_builds_are_told_apart() {
    let Some(built) = Built::new("namesakes") else { return };
    let nameless = ["-Wl,--build-id=none"];
    for (folder, function) in [("a", "alpha_cache"), ("b", "omega_parser")] {
        fs::create_dir(built.0.join(folder)).expect("a writable place");
        built.plugin(&format!("{folder}/same.so"), function, &nameless);
    }
    let mut host = built.start(4096);
    let first = host.keep("a/same.so", 500);
    host.unload();
    let second = host.keep("b/same.so", 100);
    took_its_place(&first, &second);
    let folded = host.profile("folded");
    assert_about(blocks(&folded, ";main;same.so (unloaded)+0x"), 500.0, &folded);
    assert_about(blocks(&folded, ";omega_parser"), 100.0, &folded);
    // The same path, another file.
    host.unload();
    built.plugin("b/same.so", "third_parser", &nameless);
    let third = host.keep("b/same.so", 200);
    took_its_place(&second, &third);
    let folded = host.profile("folded");
    assert_about(blocks(&folded, ";main;same.so (unloaded)+0x"), 600.0, &folded);
    assert_about(blocks(&folded, ";third_parser"), 200.0, &folded);
}

/// The report of a misuse says where the block was allocated.
#[test]
fn the_report_of_a_misuse_names_no_other_library() {
    let Some(built) = Built::new("misused") else { return };
    built.plugin("liba.so", "alpha_cache", &[]);
    built.plugin("libb.so", "omega_parser", &[]);
    let mut host = built.start(1);
    let first = host.keep("./liba.so", 10);
    host.unload();
    let place = host.tell("load ./libb.so");
    took_its_place(&first, &place);
    assert_eq!(host.tell("touch"), "", "it has ended");
    let mut said = String::new();
    host.child.stderr.take().expect("piped").read_to_string(&mut said).expect("readable");
    assert!(said.contains("use after free"), "{said}");
    let allocated = said.split_once("allocated by thread").expect("a history").1;
    let allocated = allocated.split_once("freed by thread").expect("its end").0;
    assert!(allocated.contains(" ./liba.so+0x") && allocated.contains(" (unloaded)"), "{said}");
    assert!(!allocated.contains("libb.so"), "{said}");
}
