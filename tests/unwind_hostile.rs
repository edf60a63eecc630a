//! Stacks and registers that are damaged: a walk ends, says no more than there is room for, and never
//! faults.
#![cfg(target_arch = "x86_64")]

#[path = "unwinding/mod.rs"]
mod common;

use std::hint::black_box;
use std::thread;

use slackwater::stack::{
    CopiedStack, MAX_FRAMES, Registers, Scratch, StackMemory, address_in_frame, capture,
    walk_frame_pointers,
};
use slackwater::unwind::{install, walk};

/// xorshift64*: the seed reproduces a failure.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }
}

/// Calls `then` from so many frames further in.
#[inline(never)]
fn deep(frames: usize, then: &mut dyn FnMut()) {
    if black_box(frames) == 0 {
        then()
    } else {
        deep(frames - 1, then)
    }
    black_box(frames);
}

/// Every mapping of a file: where code and tables are, or might be taken to be.
fn mapped_files() -> Vec<(u64, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let files = maps.lines().filter(|line| line.contains('/') || line.contains("[vdso]"));
    files
        .map(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let (start, end) = range.expect("a range");
            let number = |text| u64::from_str_radix(text, 16).expect("a number");
            (number(start), number(end))
        })
        .collect()
}

/// Words at `start`, and how often they were asked for.
struct Words {
    start: u64,
    words: Vec<u64>,
    asked: usize,
}

impl StackMemory for Words {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.asked += 1;
        let offset = address.checked_sub(self.start)?;
        offset.is_multiple_of(8).then(|| self.words.get((offset / 8) as usize).copied())?
    }
}

/// Something that a register or a word of a stack may hold.
fn anything(random: &mut Random, files: &[(u64, u64)], stack: u64) -> u64 {
    let (start, end) = files[random.below(files.len() as u64) as usize];
    match random.below(8) {
        0 => random.next(),
        1 => random.below(100),
        2 => u64::MAX - random.below(100),
        3 => stack + random.below(600) * 8,
        4 => stack + random.below(4800),
        _ => start + random.below(end - start),
    }
}

#[test]
fn garbage_is_walked_to_some_end() {
    assert!(install());
    let files = mapped_files();
    let stack = 0x7ffe_0000_0000;
    let (mut longest, mut walks) = (0, 0);
    for seed in 0..40_000 {
        let mut random = Random::new(seed);
        let words = (0..512).map(|_| anything(&mut random, &files, stack)).collect();
        let registers = Registers {
            pc: anything(&mut random, &files, stack),
            sp: if seed % 4 == 0 { anything(&mut random, &files, stack) } else { stack },
            fp: anything(&mut random, &files, stack),
            lr: random.next(),
        };
        let mut frames = [u64::MAX; 40];
        let room = random.below(40) as usize;
        let mut memory = Words { start: stack, words, asked: 0 };
        let count = walk(&registers, &mut memory, &mut frames[..room]);
        assert!(count <= room, "seed {seed}");
        assert!(frames[count..].iter().all(|&frame| frame == u64::MAX), "seed {seed}");
        assert!(memory.asked <= (room + 32) * 8, "seed {seed}: {}", memory.asked);
        (longest, walks) = (longest.max(count), walks + (count > 0) as usize);
    }
    // Not all of it ended at once.
    assert!(longest >= 3 && walks > 1_000, "{longest} {walks}");
}

/// Any address in a module may be on a damaged stack, also of data and of tables.
#[test]
fn every_kind_of_address_in_a_module_has_some_answer() {
    assert!(install());
    let stack = 0x7ffe_0000_0000;
    let files = mapped_files();
    for &(start, end) in &files {
        let steps = 5_000;
        for n in 0..steps {
            let pc = start + (end - start) / steps * n;
            let mut memory = Words { start: stack, words: vec![pc; 64], asked: 0 };
            let registers = Registers { pc, sp: stack, fp: stack + 64, lr: 0 };
            assert!(walk(&registers, &mut memory, &mut [0; 64]) <= 64);
        }
    }
}

/// The real registers and stack, but registers wrong and the copy taken of what is there.
#[test]
fn wrong_registers_on_a_real_stack() {
    assert!(install());
    let files = mapped_files();
    let mut scratch = Box::new(Scratch::new());
    for seed in 0..5_000 {
        let mut random = Random::new(seed);
        let mut registers = Registers::here();
        for register in [&mut registers.pc, &mut registers.sp, &mut registers.fp] {
            let sp = *register;
            if random.below(2) == 0 {
                *register = anything(&mut random, &files, sp & !7);
            }
        }
        let mut frames = [0; MAX_FRAMES];
        for walker in [walk, walk_frame_pointers] {
            let mut memory = CopiedStack::new(&mut scratch, Registers::here().sp, 0);
            assert!(walker(&registers, &mut memory, &mut frames) <= MAX_FRAMES);
        }
    }
}

#[test]
fn a_stack_that_is_cut_off_gives_the_frames_in_front() {
    struct CutOff<'a> {
        stack: CopiedStack<'a>,
        end: u64,
    }
    impl StackMemory for CutOff<'_> {
        fn word(&mut self, address: u64) -> Option<u64> {
            if address < self.end { self.stack.word(address) } else { None }
        }
    }
    #[inline(never)]
    fn deep(frames: usize, then: &mut dyn FnMut()) {
        if black_box(frames) == 0 {
            then()
        } else {
            deep(frames - 1, then)
        }
        black_box(frames);
    }
    assert!(install());
    // Not made in the closure: its frame might have room for it, too.
    let mut scratch = Box::new(Scratch::new());
    deep(20, &mut || {
        let registers = Registers::here();
        let mut lengths = Vec::new();
        let mut whole = None;
        for bytes in (0..16 << 10).rev().step_by(8) {
            let stack = CopiedStack::new(&mut scratch, registers.sp, 0);
            let mut memory = CutOff { stack, end: registers.sp + bytes };
            let mut frames = [0; MAX_FRAMES];
            let count = walk(&registers, &mut memory, &mut frames);
            let whole = whole.get_or_insert(frames);
            assert_eq!(frames[..count], whole[..count], "{bytes}");
            lengths.push(count);
        }
        assert!(lengths.is_sorted_by(|longer, shorter| longer >= shorter), "{lengths:?}");
        assert_eq!(lengths.last(), Some(&0));
        assert!(lengths[0] > 20);
    });
}

/// Without tables there is no more than frame pointers give, and nothing that is not there.
#[test]
fn code_that_no_module_has_is_left_by_its_frame_pointer() {
    assert!(install());
    let stack = 0x7ffe_0000_0000;
    let jit = 0x1234_5678_9000;
    let words = vec![7, 7, stack + 40, jit + 100, 7, stack + 56, jit + 200, 0, jit + 300];
    let mut memory = Words { start: stack, words, asked: 0 };
    let registers = Registers { pc: jit, sp: stack, fp: stack + 16, lr: 0 };
    let mut frames = [0; 8];
    let count = walk(&registers, &mut memory, &mut frames);
    assert_eq!(frames[..count], [jit + 100, jit + 200, jit + 300]);
    // A pointer to some other stack is none to a frame.
    let registers = Registers { fp: stack + (1 << 20), ..registers };
    assert_eq!(walk(&registers, &mut memory, &mut frames), 0);
}

/// The table's nearest entry is another function's.
#[test]
fn a_place_in_a_module_that_is_no_functions_is_left_by_its_frame_pointer() {
    assert!(install());
    let stack = 0x7ffe_0000_0000;
    let code = walk as *const () as u64;
    let (headers, _) = mapped_files()[0];
    // What a function that has pushed nothing or little would return to is none.
    let words = vec![7, 7, 7, 7, 7, 7, 7, 7, 0, code];
    let mut memory = Words { start: stack, words, asked: 0 };
    let registers = Registers { pc: headers, sp: stack, fp: stack + 64, lr: 0 };
    let mut frames = [0; 1];
    assert_eq!(walk(&registers, &mut memory, &mut frames), 1);
    assert_eq!(frames, [code]);
}

/// Not even if the frame pointer there looks like one.
#[test]
fn nobody_has_called_what_a_thread_begins_with() {
    #[inline(never)]
    fn frames_here(scratch: &mut Scratch, frames: &mut [u64; MAX_FRAMES]) -> usize {
        capture(scratch, frames, address_in_frame())
    }
    assert!(install());
    let mut frames = [0; MAX_FRAMES];
    let count = frames_here(&mut Box::new(Scratch::new()), &mut frames);
    let stack = 0x7ffe_0000_0000;
    let walk_from = |pc| {
        let words = vec![7, 7, stack + 40, frames[0], 7, stack + 56, frames[0]];
        let mut memory = Words { start: stack, words, asked: 0 };
        let registers = Registers { pc, sp: stack, fp: stack + 16, lr: 0 };
        walk(&registers, &mut memory, &mut [0; 1])
    };
    assert_eq!(walk_from(frames[count - 1] - 1), 0);
    assert_eq!(walk_from(stack), 1, "code that no module has");
}

/// Where the kernel forbids looking, the page that the frames begin on is all there is: of 64 places
/// in a page, few are so near its end that not even the caller is found.
#[test]
fn the_frames_in_front_are_found_without_the_kernels_help() {
    /// Stands for malloc.
    #[inline(never)]
    fn frames_here(scratch: &mut Scratch, frames: &mut [u64; MAX_FRAMES]) -> usize {
        capture(scratch, frames, address_in_frame())
    }
    assert!(install());
    thread::spawn(|| {
        let mut scratch = Box::new(Scratch::new());
        let mut counts = Vec::new();
        let mut all = [[0; MAX_FRAMES]; 2];
        for depth in 0..64 {
            deep(depth, &mut || {
                let [seen, unseen] = &mut all;
                let whole = frames_here(&mut scratch, seen);
                if depth == 0 {
                    common::filter::forbid(libc::SYS_rt_sigprocmask);
                }
                let count = frames_here(&mut scratch, unseen);
                // They return to two places of this function; the rest is the same.
                let rest = count.min(whole).max(1);
                assert_eq!(seen[1..rest], unseen[1..rest]);
                counts.push(count);
            });
        }
        let found = counts.iter().filter(|&&count| count > 0).count();
        assert!(found > 56, "{counts:?}");
        assert!(counts.iter().any(|&count| count > 5), "{counts:?}");
    })
    .join()
    .unwrap();
}
