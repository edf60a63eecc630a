//! A profile as text, as Go's `/debug/pprof/heap?debug=1` has it: for people, and for tools that
//! know gperftools' heap profiles.
//!
//! The figures are estimates already, so the head says `heapprofile`: readers do not scale them
//! again.

use std::fmt::Write;

use super::folded::call_sites;
use super::lacks::lacks;
use super::names::Names;
use super::{Profile, Stack, Weighted};

/// The stacks with the most live bytes first, each with its functions, then what is mapped where.
pub fn render(profile: &Profile, names: &Names) -> String {
    let mut all = Stack::default();
    for stack in &profile.stacks {
        all.allocated += stack.allocated;
        all.freed += stack.freed;
    }
    let mut text = format!("heap profile: {} @ heapprofile\n", figures(&all));
    let mut stacks: Vec<&Stack> = profile.stacks.iter().collect();
    stacks.sort_by(|a, b| {
        let order = b.live().bytes.total_cmp(&a.live().bytes);
        order.then_with(|| b.allocated.bytes.total_cmp(&a.allocated.bytes))
    });
    for stack in stacks {
        let _ = write!(text, "{} @", figures(stack));
        for address in &stack.frames {
            let _ = write!(text, " {address:#x}");
        }
        text.push('\n');
        for site in call_sites(profile, names, &stack.frames) {
            let _ = match &site.file[..] {
                "" => writeln!(text, "#\t{}", site.function),
                file => writeln!(text, "#\t{}\t{file}:{}", site.function, site.line),
            };
        }
        text.push('\n');
    }
    for line in lacks(profile, names) {
        let _ = writeln!(text, "# {line}");
    }
    text.push_str("\nMAPPED_LIBRARIES:\n");
    for mapping in profile.modules.mappings() {
        let _ = writeln!(
            text,
            "{:08x}-{:08x} r-xp {:08x} 00:00 {} {}",
            mapping.start, mapping.end, mapping.offset, mapping.inode, mapping.path
        );
    }
    text
}

/// Live, and allocated in all: `objects: bytes [objects: bytes]`.
fn figures(stack: &Stack) -> String {
    let whole = |amount: Weighted| (amount.objects.round() as i64, amount.bytes.round() as i64);
    let (live_objects, live_bytes) = whole(stack.live());
    let (objects, bytes) = whole(stack.allocated);
    format!("{live_objects}: {live_bytes} [{objects}: {bytes}]")
}

#[cfg(test)]
mod tests {
    use super::super::folded::tests::made_up_names;
    use super::super::tests::made_up;
    use super::*;

    #[test]
    fn it_reads_as_gos() {
        let expected = "\
heap profile: 1102: 166490 [5103: 422500] @ heapprofile
100: 102400 [100: 102400] @ 0x401011 0x401101 0x401201
#\t<[u8; 16] as app::Keep>::keep\t/src/keep.rs:7
#\tapp::leak\t/src/leak.rs:30
#\tapp::serve\t/src/main.rs:12
#\tmain

1000: 64000 [5000: 320000] @ 0x7f0000000021 0x401101 0x401201
#\tlibx.so.1+0x21
#\tapp::serve\t/src/main.rs:12
#\tmain

2: 90 [3: 100] @


MAPPED_LIBRARIES:
00401000-00402000 r-xp 00001000 00:00 11 /srv/app
7f0000000000-7f0000001000 r-xp 00000000 00:00 12 /lib/libx.so.1
";
        assert_eq!(render(&made_up(), &made_up_names()), expected);
    }
}
