//! What the tables said of addresses that were met before.
//!
//! Any thread reads and writes at any time, a signal handler in the middle of either: there is no lock
//! and no order. An entry is two words, the rule and the rule mixed with its key. Halves of different
//! entries give no key that anybody asks for, so a torn entry is a miss.

use core::sync::atomic::{AtomicU64, Ordering};

use super::rule::Rule;

/// A power of two. 2,048 entries are 32 KiB, of which only touched pages count.
const ENTRIES: usize = 2048;

pub(crate) struct Cache([Entry; ENTRIES]);

/// Aligned so that it never lies in two cache lines.
#[repr(align(16))]
struct Entry {
    /// [`Rule::pack`]; 0 if there is none.
    rule: AtomicU64,
    /// The key xor the rule.
    check: AtomicU64,
}

/// An address in a module, mixed so that every bit depends on every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Cache {
    pub const fn new() -> Cache {
        Cache([const { Entry { rule: AtomicU64::new(0), check: AtomicU64::new(0) } }; ENTRIES])
    }

    /// The key of `address` in the module with this identity: another one that is loaded later at the
    /// same addresses has other keys.
    pub fn key(address: u64, identity: u64) -> Key {
        // murmur3's finalizer, which is a bijection.
        let mut key = address ^ identity;
        key = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        key = (key ^ key >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Key(key ^ key >> 33)
    }

    pub fn get(&self, key: Key) -> Option<Rule> {
        let entry = self.entry(key);
        // Relaxed: the two need not be of one entry, which is what the check is for.
        let rule = entry.rule.load(Ordering::Relaxed);
        let check = entry.check.load(Ordering::Relaxed);
        if rule ^ check == key.0 { Rule::unpack(rule) } else { None }
    }

    pub fn put(&self, key: Key, rule: Rule) {
        let entry = self.entry(key);
        let rule = rule.pack();
        // Relaxed: see `get`.
        entry.rule.store(rule, Ordering::Relaxed);
        entry.check.store(rule ^ key.0, Ordering::Relaxed);
    }

    fn entry(&self, key: Key) -> &Entry {
        &self.0[key.0 as usize % ENTRIES]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::super::rule::Place;
    use super::*;
    use std::vec::Vec;

    fn rule(n: u64) -> Rule {
        Rule::Caller(Place { from_fp: n % 2 == 1, words: n, return_address: 1, fp: n % 7 })
    }

    #[test]
    fn what_was_put_is_found_until_another_takes_its_place() {
        static CACHE: Cache = Cache::new();
        let first = Cache::key(0x5555_0000, 1);
        assert_eq!(CACHE.get(first), None);
        CACHE.put(first, rule(3));
        assert_eq!(CACHE.get(first), Some(rule(3)));
        let same_place = |key: &Key| key.0 as usize % ENTRIES == first.0 as usize % ENTRIES;
        let second = (1..).map(|n| Cache::key(0x5555_0000 + n, 1)).find(same_place).unwrap();
        assert_eq!(CACHE.get(second), None);
        CACHE.put(second, rule(4));
        assert_eq!(CACHE.get(first), None);
        assert_eq!(CACHE.get(second), Some(rule(4)));
    }

    #[test]
    fn the_same_address_of_another_module_is_another_key() {
        static CACHE: Cache = Cache::new();
        CACHE.put(Cache::key(0x5555_0000, 1), rule(3));
        assert_eq!(CACHE.get(Cache::key(0x5555_0000, 2)), None);
    }

    /// An empty entry has the check 0, and a key may be 0.
    #[test]
    fn an_empty_entry_is_nobodys() {
        static CACHE: Cache = Cache::new();
        assert_eq!(Cache::key(7, 7), Key(0));
        assert_eq!(CACHE.get(Key(0)), None);
    }

    /// Every interleaving of two writers and a reader comes to this: each word is of one of the
    /// entries that were ever written to the place, or empty.
    #[test]
    fn a_torn_entry_is_nobodys() {
        let written: Vec<(Key, u64)> =
            (0..400).map(|n| (Cache::key(0x5555_0000 + n, 1), rule(n % 50).pack())).collect();
        let torn = Cache::new();
        for &(key, of_one) in &written {
            for &(of_other, other) in &written {
                let entry = torn.entry(key);
                entry.rule.store(of_one, Ordering::Relaxed);
                entry.check.store(other ^ of_other.0, Ordering::Relaxed);
                let found = torn.get(key).map(Rule::pack);
                let is_whole = key == of_other && of_one == other;
                assert_eq!(found, is_whole.then_some(of_one));
            }
        }
    }
}
