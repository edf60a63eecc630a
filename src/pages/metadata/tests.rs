use super::*;
use crate::os::fake::FakeOs;
use crate::testing::test_random::Random;

fn chunks(metadata: &Metadata) -> Vec<(u32, u32, usize)> {
    let mut pool = metadata.pool.lock();
    let mut found = Vec::new();
    let mut at = pool.arrays.first;
    while !at.is_null() {
        let chunk = pool.arrays.chunk(at);
        found.push((chunk.number, chunk.used, chunk.touched - PIECES));
        at = chunk.next;
    }
    found
}

fn give_back(metadata: &Metadata, (start, bytes): (usize, usize)) {
    // SAFETY: the tests' pieces are not used.
    unsafe { metadata.give_back(start as *mut u8, bytes) };
}

fn allocate(metadata: &Metadata, bytes: usize) -> (usize, usize) {
    let start = metadata.allocate_array(bytes).unwrap() as usize;
    // SAFETY: the piece is this long, and nobody else's.
    unsafe { (start as *mut u8).write_bytes(0xab, bytes) };
    (start, bytes)
}

const ALL: (u64, u64) = (u64::MAX, u64::MAX);

#[test]
fn records_are_zero_and_do_not_overlap() {
    let metadata = Metadata::new();
    let mut records: Vec<usize> = Vec::new();
    for _ in 0..200 {
        let start = metadata.allocate_record(5000).unwrap() as usize;
        assert!(start.is_multiple_of(64));
        assert!(records.iter().all(|&other| start.abs_diff(other) >= 5000));
        // SAFETY: the record is this long, and nobody else's.
        let content = unsafe { core::slice::from_raw_parts_mut(start as *mut u8, 5000) };
        assert!(content.iter().all(|&byte| byte == 0));
        content.fill(1);
        records.push(start);
    }
    // The first ones lie beside a chunk for arrays, which has its header.
    assert_eq!(metadata.used_bytes(), (200 * 5056 + PIECES) as u64);
    assert_eq!(chunks(&metadata), [(0, 0, 0)]);
    let calls = metadata.map_calls.load(Ordering::Relaxed);
    assert!((5..=7).contains(&calls), "{calls}: some for the chunk, three or four for the rest");
}

#[test]
fn pieces_do_not_overlap_and_are_reused() {
    let metadata = Metadata::new();
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    for round in 0..400 {
        let bytes = 64 << (round % SIZES);
        let (start, _) = allocate(&metadata, bytes);
        assert!(start.is_multiple_of(bytes.min(4096)));
        assert!(pieces.iter().all(|&(s, b)| start + bytes <= s || s + b <= start));
        pieces.push((start, bytes));
    }
    let calls = metadata.map_calls.load(Ordering::Relaxed);
    for &piece in &pieces {
        give_back(&metadata, piece);
    }
    for &(_, bytes) in &pieces {
        allocate(&metadata, bytes);
    }
    assert_eq!(metadata.map_calls.load(Ordering::Relaxed), calls, "returned pieces serve first");
}

#[test]
fn an_empty_chunk_goes_after_it_has_rested() {
    let (metadata, os) = (Metadata::new(), FakeOs::default());
    let give = |epoch| metadata.give_arrays_back(&os, Epoch(epoch), 5, ALL);
    let pieces: Vec<_> = (0..70).map(|_| allocate(&metadata, 8192)).collect();
    assert_eq!(give(1), GivenBack::default(), "all are in use");
    let full = metadata.used_bytes();
    let all = chunks(&metadata);
    assert_eq!(all.iter().map(|chunk| chunk.1).collect::<Vec<_>>(), [31, 31, 8]);
    assert_eq!(full as usize, all.iter().map(|chunk| chunk.2 + PIECES).sum::<usize>());
    for &piece in &pieces[31..] {
        give_back(&metadata, piece);
    }
    for epoch in 10..15 {
        assert!(give(epoch).is_waiting);
    }
    assert_eq!(os.purge_calls.get(), 0);
    let bytes = all[1].2 + all[2].2;
    assert_eq!(give(15), GivenBack { bytes, calls: 1, is_waiting: false });
    assert_eq!(metadata.used_bytes(), full - bytes as u64);
    assert_eq!(os.purged_bytes(), bytes);
    assert_eq!(give(100), GivenBack::default(), "once");
    // What was in use is untouched, and what was given back is used again.
    for &(start, bytes) in &pieces[..31] {
        // SAFETY: the piece is this long.
        let content = unsafe { core::slice::from_raw_parts(start as *const u8, bytes) };
        assert!(content.iter().all(|&byte| byte == 0xab));
    }
    let calls = metadata.map_calls.load(Ordering::Relaxed);
    let again: Vec<_> = (0..39).map(|_| allocate(&metadata, 8192)).collect();
    assert_eq!((metadata.used_bytes(), chunks(&metadata)), (full, all));
    assert_eq!(metadata.map_calls.load(Ordering::Relaxed), calls);
    again.iter().chain(&pieces[..31]).for_each(|&piece| give_back(&metadata, piece));
}

#[test]
fn use_begins_the_rest_anew_and_the_lowest_chunk_serves() {
    let (metadata, os) = (Metadata::new(), FakeOs::default());
    let give = |epoch| metadata.give_arrays_back(&os, Epoch(epoch), 5, ALL);
    let pieces: Vec<_> = (0..62).map(|_| allocate(&metadata, 8192)).collect();
    pieces.iter().rev().for_each(|&piece| give_back(&metadata, piece));
    for epoch in 0..20 {
        // A thread that is at work all the time keeps one chunk, and lets the other go.
        let piece = allocate(&metadata, 64 << (epoch % 8));
        assert_eq!(chunk_of(piece.0 as *mut Piece), chunk_of(pieces[0].0 as *mut Piece));
        give_back(&metadata, piece);
        let given = give(epoch);
        assert_eq!((given.calls, given.is_waiting), ((epoch == 5) as u64, true));
    }
}

#[test]
fn the_budget_is_kept() {
    let (metadata, os) = (Metadata::new(), FakeOs::default());
    let pieces: Vec<_> = (0..3 * 31).map(|_| allocate(&metadata, 8192)).collect();
    pieces.into_iter().for_each(|piece| give_back(&metadata, piece));
    let given = metadata.give_arrays_back(&os, Epoch(9), 0, (62, 9));
    assert_eq!(given, GivenBack { bytes: 62 * PAGE_BYTES, calls: 1, is_waiting: true });
    assert!(metadata.give_arrays_back(&os, Epoch(9), 0, (1000, 0)).is_waiting);
    assert_eq!(metadata.give_arrays_back(&os, Epoch(9), 0, ALL).bytes, 2 * 62 * PAGE_BYTES);
}

#[test]
fn a_chunk_that_the_kernel_refuses_is_used_on() {
    let (metadata, os) = (Metadata::new(), FakeOs::default());
    let give = |epoch| metadata.give_arrays_back(&os, Epoch(epoch), 0, ALL);
    let piece = allocate(&metadata, 4096);
    give_back(&metadata, piece);
    let touched = metadata.used_bytes();
    os.locked.borrow_mut().push(piece.0);
    assert_eq!(give(1), GivenBack { bytes: 0, calls: 1, is_waiting: false });
    assert_eq!(give(2), GivenBack::default(), "not at each tick");
    assert_eq!(allocate(&metadata, 4096), piece);
    assert_eq!(metadata.used_bytes(), touched, "counted once");
    give_back(&metadata, piece);
    os.locked.borrow_mut().clear();
    assert_eq!(give(3), GivenBack { bytes: 4096, calls: 1, is_waiting: false });
}

/// While the kernel has chunks others allocate: elsewhere.
#[test]
fn nobody_gets_a_piece_of_what_the_kernel_has() {
    struct During<'a>(&'a Metadata, FakeOs, core::cell::RefCell<Vec<(usize, usize)>>);
    impl Os for During<'_> {
        fn map(&self, _: AddressRange) -> os::Mapped {
            os::Mapped::Refused
        }
        fn purge(&self, ranges: &[AddressRange]) -> os::PurgeOutcome {
            self.2.borrow_mut().extend((0..10).map(|_| allocate(self.0, 64)));
            let outcome = self.1.purge(ranges);
            self.2.borrow_mut().extend((0..10).map(|_| allocate(self.0, 8192)));
            outcome
        }
        fn memory_room(&self, _: &mut crate::os::cgroup::Scratch) -> Option<os::MemoryRoom> {
            None
        }
        fn now(&self) -> os::Nanos {
            os::Nanos(1)
        }
    }
    let metadata = Metadata::new();
    let os = During(&metadata, FakeOs::default(), Default::default());
    let pieces: Vec<_> = (0..50).map(|_| allocate(&metadata, 8192)).collect();
    pieces.iter().for_each(|&piece| give_back(&metadata, piece));
    let given = metadata.give_arrays_back(&os, Epoch(1), 0, ALL);
    assert_eq!(given.bytes, 50 * 8192);
    for &(start, bytes) in os.2.borrow().iter() {
        // SAFETY: the piece is this long.
        let content = unsafe { core::slice::from_raw_parts(start as *const u8, bytes) };
        assert!(content.iter().all(|&byte| byte == 0xab), "nothing was taken away");
    }
    assert_eq!(allocate(&metadata, 8192).0, pieces[0].0, "then the lowest serves again");
}

/// Against a list of what is in use.
#[test]
fn random_use_loses_no_piece_and_no_content() {
    let (metadata, os) = (Metadata::new(), FakeOs::default());
    let mut random = Random::new(11);
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    for step in 0..40_000u64 {
        let grows = step / 5000 % 2 == 0;
        if random.below(10) < if grows { 6 } else { 3 } {
            let piece = allocate(&metadata, 64 << random.below(SIZES as u64));
            let tag = piece.0 as u64 ^ step;
            // SAFETY: the piece is this long, and aligned.
            unsafe { (piece.0 as *mut u64).write(tag) };
            // SAFETY: as above.
            unsafe { ((piece.0 + piece.1 - 8) as *mut u64).write(tag) };
            pieces.push(piece);
        } else if !pieces.is_empty() {
            let piece = pieces.swap_remove(random.below(pieces.len() as u64) as usize);
            // SAFETY: the piece is this long, and aligned.
            let first = unsafe { (piece.0 as *const u64).read() };
            // SAFETY: as above.
            let last = unsafe { ((piece.0 + piece.1 - 8) as *const u64).read() };
            assert_eq!(first, last, "its content is its owner's");
            give_back(&metadata, piece);
        }
        if random.below(50) == 0 {
            metadata.give_arrays_back(&os, Epoch(step), random.below(400), ALL);
            let all = chunks(&metadata);
            let used: u32 = all.iter().map(|chunk| chunk.1).sum();
            assert_eq!(used as usize, pieces.len());
            let touched: usize = all.iter().map(|chunk| chunk.2 + PIECES).sum();
            assert_eq!(metadata.used_bytes(), touched as u64);
        }
    }
    assert!(os.purge_calls.get() > 0);
    pieces.into_iter().for_each(|piece| give_back(&metadata, piece));
    metadata.give_arrays_back(&os, Epoch(1 << 40), 0, ALL);
    assert!(chunks(&metadata).iter().all(|chunk| (chunk.1, chunk.2) == (0, 0)));
}
