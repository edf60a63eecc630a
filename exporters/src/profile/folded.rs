//! Folded stacks: a line for each, functions from the outermost to the innermost, and a value. What
//! flamegraphs are made of, and what many tools read.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Profile;
use super::frame::Frame;
use super::names::Names;
use super::prune::{is_allocator, is_begin};

/// The name of a stack that is not known.
pub const UNKNOWN: &str = "[stack unknown]";

/// Where something is, from the outside in, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Names, the outermost first.
    pub path: Vec<String>,
    /// How much.
    pub value: f64,
}

impl Folded {
    /// So much at `path`.
    pub fn new<T: ToString>(path: impl IntoIterator<Item = T>, value: f64) -> Folded {
        Folded { path: path.into_iter().map(|name| name.to_string()).collect(), value }
    }
}

/// A name for each function of a stack, the outermost first, without the allocator's own.
pub fn path(profile: &Profile, names: &Names, frames: &[u64]) -> Vec<String> {
    let mut path: Vec<String> =
        call_sites(profile, names, frames).into_iter().map(|site| site.function).collect();
    path.reverse();
    if path.is_empty() { vec![UNKNOWN.to_string()] } else { path }
}

/// The functions of a stack, the innermost first, without the allocator's own and those that start a Rust
/// program or thread.
pub fn call_sites(profile: &Profile, names: &Names, frames: &[u64]) -> Vec<Frame> {
    let mut sites: Vec<Frame> = Vec::with_capacity(frames.len());
    for &address in frames {
        match names.get(address) {
            Some(known) => sites.extend_from_slice(known),
            None => {
                let function = profile.modules.place(address);
                sites.push(Frame { function, ..Frame::default() });
            }
        }
    }
    if let Some(begin) = sites.iter().position(|site| is_begin(&site.function)).filter(|&at| at > 0)
    {
        sites.truncate(begin);
    }
    // As `pprof` does it: a frame of the allocator's goes with all that it calls. A stack of nothing
    // but these would be a riddle without them.
    let inner = sites.iter().rposition(|site| is_allocator(&site.function));
    if let Some(inner) = inner.filter(|inner| inner + 1 < sites.len()) {
        sites.drain(..=inner);
    }
    sites
}

/// Lines of one and the same path are one line, with the sum. Paths are in order, and values whole;
/// what comes to nothing is left out.
pub fn render(stacks: &[Folded]) -> String {
    let mut text = String::new();
    for (path, [value]) in sums([stacks]) {
        if value > 0 {
            let _ = writeln!(text, "{path} {value}");
        }
    }
    text
}

/// The same for two, with two values on each line: what a differential flamegraph is made of.
pub fn render_both(before: &[Folded], after: &[Folded]) -> String {
    let mut text = String::new();
    for (path, [before, after]) in sums([before, after]) {
        if before > 0 || after > 0 {
            let _ = writeln!(text, "{path} {before} {after}");
        }
    }
    text
}

/// What was added since `before`, of values that only ever grow.
pub fn render_growth(before: &[Folded], after: &[Folded]) -> String {
    let negated = before.iter().map(|one| Folded { path: one.path.clone(), value: -one.value });
    render(&negated.chain(after.iter().cloned()).collect::<Vec<_>>())
}

fn sums<const N: usize>(lists: [&[Folded]; N]) -> BTreeMap<String, [u64; N]> {
    let mut sums: BTreeMap<String, [f64; N]> = BTreeMap::new();
    for (i, list) in lists.into_iter().enumerate() {
        for stack in list {
            sums.entry(line(&stack.path)).or_insert([0.0; N])[i] += stack.value;
        }
    }
    // Rounded once, when all is there; what is negative is nothing.
    sums.into_iter()
        .map(|(path, values)| (path, values.map(|value| value.round() as u64)))
        .collect()
}

fn line(path: &[String]) -> String {
    // The one sign that has a meaning: Rust's `[u8; 16]` has it.
    path.iter().map(|name| name.replace(';', ":")).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::names::OBSERVER;
    use super::super::tests::made_up;
    use super::*;

    fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame { function: function.to_string(), file: file.to_string(), line }
    }

    /// Names for [`made_up`]: one address has an inlined function and one none at all.
    pub fn made_up_names() -> Names {
        Names::new([
            (
                0x40_1011,
                vec![
                    frame("alloc::alloc::alloc", "alloc.rs", 9),
                    frame("<[u8; 16] as app::Keep>::keep", "/src/keep.rs", 7),
                    frame("app::leak", "/src/leak.rs", 30),
                ],
            ),
            (0x40_1101, vec![frame("app::serve", "/src/main.rs", 12)]),
            (0x40_1201, vec![frame("main", "", 0)]),
        ])
    }

    #[test]
    fn stacks_are_folded_from_the_outside_in_without_the_allocators_frames() {
        let (profile, names) = (made_up(), made_up_names());
        let stacks: Vec<Folded> = profile
            .stacks
            .iter()
            .map(|stack| Folded::new(path(&profile, &names, &stack.frames), stack.live().bytes))
            .collect();
        assert_eq!(
            render(&stacks),
            "[stack unknown] 90\n\
             main;app::serve;app::leak;<[u8: 16] as app::Keep>::keep 102400\n\
             main;app::serve;libx.so.1+0x21 64000\n"
        );
    }

    #[test]
    fn equal_paths_are_one_line_and_nothing_is_none() {
        let list = [
            Folded::new(["a", "b"], 1.4),
            Folded::new(["a"], -5.0),
            Folded::new(["a", "b"], 1.4),
            Folded::new(["c"], 0.4),
        ];
        assert_eq!(render(&list), "a;b 3\n");
        let after = [Folded::new(["c"], 7.0), Folded::new(["a", "b"], 0.0)];
        assert_eq!(render_both(&list, &after), "a;b 3 0\nc 0 7\n");
        assert_eq!(render_growth(&list, &after), "a 5\nc 7\n");
    }

    #[test]
    fn the_observer_has_a_name_also_where_nothing_is_named() {
        let frames = [slackwater::observer::FRAME];
        assert_eq!(path(&made_up(), &Names::default(), &frames), [OBSERVER]);
    }

    #[test]
    fn a_stack_of_nothing_but_the_allocators_stays() {
        let profile = made_up();
        let names = Names::new([(1, vec![frame("malloc", "", 0)])]);
        assert_eq!(path(&profile, &names, &[1]), ["malloc"]);
    }
}
