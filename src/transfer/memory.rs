//! Bytes held in memory, by one queue and by all together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes held in memory by all queues of the process.
#[derive(Debug)]
pub(super) struct Memory {
    held: AtomicUsize,
    max: usize,
}

impl Memory {
    pub(super) fn new(max: usize) -> Self {
        Self { held: AtomicUsize::default(), max }
    }

    pub(super) fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.max
    }
}

/// One queue's part of it.
pub(super) struct Share {
    pub(super) memory: Arc<Memory>,
    pub(super) held: usize,
}

impl Share {
    pub(super) fn set(&mut self, held: usize) {
        if held >= self.held {
            self.memory.held.fetch_add(held - self.held, Ordering::Relaxed);
        } else {
            self.memory.held.fetch_sub(self.held - held, Ordering::Relaxed);
        }
        self.held = held;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
