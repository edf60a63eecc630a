//! Hand-over from one thread to one other, cheap enough that the allocator dominates.
//!
//! A ring of `N` places. Each end keeps its own position to itself and publishes it only every so
//! often, so that most hand-overs touch no cache line that the other end writes.
//!
//! # Invariants
//!
//! `taken ≤ receiver position ≤ published ≤ sender position ≤ taken + N`, all wrapping. Places from
//! `taken` up to the receiver's position are empty, from there up to `published` they are the
//! receiver's, and all others are the sender's.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cores::Wait;

/// A position alone on its cache lines; two, since the processor fetches them in pairs.
#[repr(align(128))]
struct Position(AtomicUsize);

struct Ring<T, const N: usize> {
    /// Up to where the sender has filled; written by the sender.
    published: Position,
    /// Up to where the receiver has emptied; written by the receiver.
    taken: Position,
    places: [UnsafeCell<MaybeUninit<T>>; N],
}

// SAFETY: a place is touched by one end at a time (the invariants); what moves through it moves
// from thread to thread, hence `T: Send`.
unsafe impl<T: Send, const N: usize> Sync for Ring<T, N> {}

/// The filling end.
pub struct Sender<T, const N: usize> {
    ring: Arc<Ring<T, N>>,
    position: usize,
    /// `taken` as last seen.
    taken: usize,
    publish_every: usize,
}

/// The emptying end.
pub struct Receiver<T, const N: usize> {
    ring: Arc<Ring<T, N>>,
    position: usize,
    /// `published` as last seen.
    published: usize,
    publish_every: usize,
}

/// A ring whose ends publish their position at every multiple of `publish_every`, and whenever they
/// have to wait. What is still in it when both ends are gone is leaked.
pub fn ring<T, const N: usize>(publish_every: usize) -> (Sender<T, N>, Receiver<T, N>) {
    assert!(N.is_power_of_two(), "positions wrap around");
    let ring = Arc::new(Ring {
        published: Position(AtomicUsize::new(0)),
        taken: Position(AtomicUsize::new(0)),
        places: [const { UnsafeCell::new(MaybeUninit::uninit()) }; N],
    });
    (
        Sender { ring: Arc::clone(&ring), position: 0, taken: 0, publish_every },
        Receiver { ring, position: 0, published: 0, publish_every },
    )
}

impl<T, const N: usize> Sender<T, N> {
    /// Fills the next place; gives the value back if there is none.
    #[inline]
    pub fn try_send(&mut self, value: T) -> Result<(), T> {
        if self.position.wrapping_sub(self.taken) == N {
            self.flush_rest();
            // Acquire, for the Release in `Receiver::flush`: the value was read out before.
            self.taken = self.ring.taken.0.load(Ordering::Acquire);
            if self.position.wrapping_sub(self.taken) == N {
                return Err(value);
            }
        }
        let place = self.ring.places[self.position % N].get();
        // SAFETY: `position` is below `taken + N`, so the place is the sender's, and there is one
        // sender, borrowed mutably.
        let place = unsafe { &mut *place };
        place.write(value);
        self.position = self.position.wrapping_add(1);
        if self.position.is_multiple_of(self.publish_every) {
            self.flush();
        }
        Ok(())
    }

    /// Fills the next place as soon as there is one.
    #[inline]
    pub fn send(&mut self, mut value: T) {
        let mut wait = Wait::default();
        while let Err(refused) = self.try_send(value) {
            value = refused;
            wait.again();
        }
    }

    /// Lets the receiver see all that was sent.
    #[inline]
    fn flush(&mut self) {
        // Release, for the Acquire in `try_receive`: the places are filled.
        self.ring.published.0.store(self.position, Ordering::Release);
    }

    /// As `flush`, unless that was done already at this position: whoever waits looks often, and
    /// must not take the line away from the other end each time.
    #[inline]
    fn flush_rest(&mut self) {
        if !self.position.is_multiple_of(self.publish_every) {
            self.flush();
        }
    }
}

impl<T, const N: usize> Drop for Sender<T, N> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<T, const N: usize> Receiver<T, N> {
    /// Empties the next place, if the sender has filled it.
    #[inline]
    pub fn try_receive(&mut self) -> Option<T> {
        if self.position == self.published {
            self.flush_rest();
            // Acquire, for the Release in `Sender::flush`: the places are filled.
            self.published = self.ring.published.0.load(Ordering::Acquire);
            if self.position == self.published {
                return None;
            }
        }
        let place = self.ring.places[self.position % N].get();
        // SAFETY: `position` is below `published`, so the place is the receiver's, and there is one
        // receiver, borrowed mutably.
        let place = unsafe { &*place };
        // SAFETY: below `published` all places are filled; this one is read out once, since the
        // position moves on.
        let value = unsafe { place.assume_init_read() };
        self.position = self.position.wrapping_add(1);
        if self.position.is_multiple_of(self.publish_every) {
            self.flush();
        }
        Some(value)
    }

    /// Empties the next place as soon as the sender has filled it.
    #[inline]
    pub fn receive(&mut self) -> T {
        let mut wait = Wait::default();
        loop {
            if let Some(value) = self.try_receive() {
                return value;
            }
            wait.again();
        }
    }

    /// Lets the sender see all that was taken.
    #[inline]
    fn flush(&mut self) {
        // Release, for the Acquire in `try_send`: the places are read out.
        self.ring.taken.0.store(self.position, Ordering::Release);
    }

    /// As `flush`, unless that was done already at this position: whoever waits looks often, and
    /// must not take the line away from the other end each time.
    #[inline]
    fn flush_rest(&mut self) {
        if !self.position.is_multiple_of(self.publish_every) {
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_arrive_once_and_in_order() {
        const VALUES: usize = 100_000;
        for publish_every in [1, 4, 16] {
            let (mut sender, mut receiver) = ring::<Box<usize>, 16>(publish_every);
            std::thread::scope(|scope| {
                scope.spawn(move || (0..VALUES).for_each(|value| sender.send(Box::new(value))));
                for value in 0..VALUES {
                    assert_eq!(*receiver.receive(), value);
                }
            });
            assert!(receiver.try_receive().is_none());
        }
    }

    #[test]
    fn a_full_ring_gives_the_value_back() {
        let (mut sender, mut receiver) = ring::<u32, 2>(64);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(3));
        assert_eq!(receiver.try_receive(), Some(1));
        assert_eq!(receiver.try_receive(), Some(2));
        assert_eq!(receiver.try_receive(), None);
        assert_eq!(sender.try_send(3), Ok(()));
    }
}
