//! The demo's load: threads that fill memory in bursts, hand half of it to each other to free, and
//! sleep in between.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::sync::mpsc::{
    self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError,
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Threads at work.
pub const WORKERS: usize = 4;

/// What each thread holds at the top of a burst: 256 MiB together.
const BURST_BYTES: usize = (256 << 20) / WORKERS;

/// What each thread holds at all times.
const LIVE_BYTES: usize = 2 << 20;

/// Messages that a thread may have waiting: some 3 MiB of blocks. Without a bound, a thread that gets
/// no processor for a while would let the memory of its neighbours pile up.
const INBOX_MESSAGES: usize = 512;

/// Steps between two looks at the clock and the inbox.
const STEPS: usize = 64;

/// One allocation in so many is large.
const LARGE_ONE_IN: u64 = 256;

/// Blocks allocated and freed each time an idle thread wakes.
const TRICKLE_BLOCKS: usize = 16;

/// Just above the largest size class: allocating it visits the page heap.
const TRICKLE_LARGE_BYTES: usize = 36 << 10;

enum Errand {
    /// Fill up, then turn memory over until that moment, then report and wait.
    Burst { until: Instant },
    /// Give everything but the live set back, then be idle.
    Drain,
    /// A block to free for another thread.
    Free(Vec<u8>),
    /// Give everything back and end.
    Stop,
}

/// The threads, and the ends of the channels that drive them.
pub struct Load {
    workers: Vec<(SyncSender<Errand>, JoinHandle<()>)>,
    full: Receiver<()>,
}

impl Load {
    /// Starts the threads; they are idle.
    pub fn start() -> io::Result<Load> {
        let (report_full, full) = mpsc::channel();
        let (senders, inboxes): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::sync_channel::<Errand>(INBOX_MESSAGES)).unzip();
        let mut workers = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let mut worker = Worker {
                inbox,
                neighbour: senders[(index + 1) % WORKERS].clone(),
                report_full: report_full.clone(),
                random: Random(index as u64 + 1),
                live: VecDeque::new(),
                live_bytes: 0,
                held: Vec::new(),
                held_bytes: 0,
            };
            let thread = thread::Builder::new().name(format!("worker-{index}"));
            let handle = thread.spawn(move || {
                // The neighbour may have ended first; then so does this one.
                let _ = worker.serve();
            })?;
            workers.push((senders[index].clone(), handle));
        }
        Ok(Load { workers, full })
    }

    /// Begins a burst that lasts until that moment.
    pub fn burst(&self, until: Instant) {
        self.tell(|| Errand::Burst { until });
    }

    /// Waits until every thread has finished its burst and holds all it got.
    pub fn wait_until_full(&self) {
        for _ in &self.workers {
            // An error would mean that the threads are gone; there is nothing to wait for then.
            let _ = self.full.recv();
        }
    }

    /// Ends the burst: everything but the live set is freed, half of it by another thread.
    pub fn drain(&self) {
        self.tell(|| Errand::Drain);
    }

    /// Ends the threads, wherever they are.
    pub fn stop(self) {
        self.tell(|| Errand::Stop);
        for (_, handle) in self.workers {
            let _ = handle.join();
        }
    }

    fn tell(&self, message: impl Fn() -> Errand) {
        for (inbox, _) in &self.workers {
            // A thread that has ended needs no message.
            let _ = inbox.send(message());
        }
    }
}

/// The thread has been told to end, or nobody is left to tell it anything.
struct Stopped;

struct Worker {
    inbox: Receiver<Errand>,
    neighbour: SyncSender<Errand>,
    report_full: Sender<()>,
    random: Random,
    /// What a service holds between bursts: sessions, caches. Oldest first.
    live: VecDeque<Vec<u8>>,
    live_bytes: usize,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
}

impl Worker {
    fn serve(&mut self) -> Result<(), Stopped> {
        self.renew_live();
        loop {
            let nap = Duration::from_millis(100 + self.random.below(200));
            match self.inbox.recv_timeout(nap) {
                Ok(message) => self.handle(message)?,
                Err(RecvTimeoutError::Timeout) => self.trickle(),
                Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn handle(&mut self, message: Errand) -> Result<(), Stopped> {
        match message {
            Errand::Burst { until } => self.burst(until),
            Errand::Drain => {
                while !self.held.is_empty() {
                    self.give_one_back()?;
                }
                // The list itself was the largest block of all.
                self.held = Vec::new();
                Ok(())
            }
            Errand::Free(block) => {
                drop(block);
                Ok(())
            }
            Errand::Stop => Err(Stopped),
        }
    }

    fn burst(&mut self, until: Instant) -> Result<(), Stopped> {
        self.renew_live();
        while Instant::now() < until {
            for _ in 0..STEPS {
                if self.held_bytes < BURST_BYTES {
                    let block = self.answer();
                    self.held_bytes += block.len();
                    self.held.push(block);
                } else {
                    self.give_one_back()?;
                }
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(message) => self.handle(message)?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Err(Stopped),
                }
            }
        }
        self.report_full.send(()).map_err(|_| Stopped)
    }

    /// Frees any of the held blocks, or has the neighbour free it, if that has room for it.
    fn give_one_back(&mut self) -> Result<(), Stopped> {
        let any = self.random.below(self.held.len() as u64) as usize;
        let block = self.held.swap_remove(any);
        self.held_bytes -= block.len();
        if self.random.below(2) == 0 {
            drop(block);
            return Ok(());
        }
        match self.neighbour.try_send(Errand::Free(block)) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Stopped),
        }
    }

    /// Replaces the oldest quarter of the live set.
    fn renew_live(&mut self) {
        while self.live_bytes > LIVE_BYTES / 4 * 3 {
            match self.live.pop_front() {
                Some(block) => self.live_bytes -= block.len(),
                None => break,
            }
        }
        while self.live_bytes < LIVE_BYTES {
            let block = self.open_session();
            self.live_bytes += block.len();
            self.live.push_back(block);
        }
    }

    /// What an idle service does: a health check, a timer. Enough to visit the allocator's slow
    /// paths, where the release machinery ticks.
    fn trickle(&mut self) {
        for _ in 0..TRICKLE_BLOCKS {
            let bytes = 16 + self.random.below(1008) as usize;
            drop(self.random.block(bytes));
        }
        drop(self.random.block(TRICKLE_LARGE_BYTES));
    }
}

/// What a service wants memory for. Each is a function of its own, so that a profile tells them apart;
/// they are also as different in size.
impl Worker {
    /// Whatever the next request needs.
    #[inline(never)]
    fn answer(&mut self) -> Vec<u8> {
        match self.random.block_bytes() {
            bytes @ 0..512 => self.parse_header(bytes),
            bytes @ 512..8192 => self.read_row(bytes),
            bytes @ 8192..32_768 => self.render_page(bytes),
            bytes => self.load_image(bytes),
        }
    }

    #[inline(never)]
    fn parse_header(&mut self, bytes: usize) -> Vec<u8> {
        self.random.block(bytes)
    }

    #[inline(never)]
    fn read_row(&mut self, bytes: usize) -> Vec<u8> {
        self.random.block(bytes)
    }

    #[inline(never)]
    fn render_page(&mut self, bytes: usize) -> Vec<u8> {
        self.random.block(bytes)
    }

    #[inline(never)]
    fn load_image(&mut self, bytes: usize) -> Vec<u8> {
        self.random.block(bytes)
    }

    #[inline(never)]
    fn open_session(&mut self) -> Vec<u8> {
        let bytes = self.random.block_bytes();
        self.random.block(bytes)
    }
}

/// A seeded generator (splitmix64): every run of the demo is the same load.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// 16 B to 32 KiB, each doubling as likely as the next; now and then 64 KiB to 1 MiB.
    fn block_bytes(&mut self) -> usize {
        let base = if self.below(LARGE_ONE_IN) == 0 {
            (64 << 10) << self.below(4)
        } else {
            16 << self.below(11)
        };
        (base + self.below(base)) as usize
    }

    /// A block with every byte written, so that its pages are resident.
    fn block(&mut self, bytes: usize) -> Vec<u8> {
        black_box(vec![self.next() as u8 | 1; bytes])
    }
}
