//! Sixty-four threads that make collections, hand them to each other and drop each other's; prints
//! sums that do not depend on who ran when.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

const THREADS: u64 = 64;
const ROUNDS: u64 = 300;

type Parcel = (u64, Vec<String>, HashMap<u64, Box<[u64]>>);

fn parcel(thread: u64, round: u64) -> Parcel {
    let words = (0..round % 40).map(|i| format!("{thread}-{round}-{i}").repeat(3)).collect();
    let numbers = (0..round % 13).map(|key| (key, vec![key; (round * 7 % 900) as usize].into()));
    (thread * ROUNDS + round, words, numbers.collect())
}

fn weigh((id, words, numbers): &Parcel) -> u64 {
    let (thread, round) = (id / ROUNDS, id % ROUNDS);
    for (i, word) in words.iter().enumerate() {
        assert_eq!(*word, format!("{thread}-{round}-{i}").repeat(3));
    }
    let sum: u64 = numbers.values().flat_map(|values| values.iter()).sum();
    id + words.iter().map(|word| word.len() as u64).sum::<u64>() + sum
}

fn work(thread: u64, next: Sender<Parcel>, inbox: Receiver<Parcel>) -> u64 {
    let mut kept = BTreeMap::new();
    let mut buffer = Vec::new();
    let mut sum = 0;
    for round in 0..ROUNDS {
        next.send(parcel(thread, round)).expect("the next thread outlives its inbox");
        // A buffer that grows by realloc, far into whole page runs.
        buffer.extend((0..round * 20).map(|i| i ^ round));
        while let Ok(theirs) = inbox.try_recv() {
            sum += weigh(&theirs);
            kept.insert(theirs.0 % 17, theirs);
        }
    }
    drop(next);
    sum += inbox.iter().map(|theirs| weigh(&theirs)).sum::<u64>();
    // What was kept is what came, whoever has ended since.
    kept.values().for_each(|theirs| assert!(weigh(theirs) >= theirs.0));
    sum + buffer.iter().sum::<u64>()
}

fn main() {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
    // Each thread sends to the one after it, round a ring.
    let mut senders: Vec<_> = senders.into_iter().collect();
    senders.rotate_left(1);
    let threads: Vec<_> = (0..THREADS)
        .zip(senders.into_iter().zip(inboxes))
        .map(|(thread, (next, inbox))| thread::spawn(move || work(thread, next, inbox)))
        .collect();
    let sums = threads.into_iter().map(|thread| thread.join().expect("no thread panics"));
    println!("{}", sums.sum::<u64>());
}
