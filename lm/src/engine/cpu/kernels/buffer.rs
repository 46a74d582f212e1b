//! Buffers that are used again. A pass over a chunk needs the same few sizes layer after layer; fresh allocations of megabytes
//! would be zeroed, and paged in 4 KiB at a time, each time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Numbers that all threads together keep for their next buffers, at most (512 MB).
const KEPT: usize = 1 << 27;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A slice of numbers whose memory goes back to its thread when dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<f32>,
    len: usize,
    /// Whether the memory is kept when this is dropped.
    kept: bool,
}

impl Buffer {
    /// `len` numbers of any value: for what is written before it is read.
    pub(crate) fn stale(len: usize) -> Self {
        let found = FREE.with_borrow_mut(|free| {
            let fits = |n: usize| n >= len && n / 2 <= len + 512;
            // Of equals the one used last: it is still in the caches.
            let sizes = free.iter().map(Vec::len).enumerate().rev().filter(|(_, n)| fits(*n));
            let best = sizes.min_by_key(|(_, n)| *n)?.0;
            Some(free.remove(best))
        });
        Self { data: found.unwrap_or_else(|| vec![0.0; len]), len, kept: true }
    }

    /// Zeros from the allocator, to which they return: clearing brings a small buffer into the caches, which in passes without
    /// gradient (nothing is kept, everything is small) is worth more than what it costs.
    pub(crate) fn fresh(len: usize) -> Self {
        Self { data: vec![0.0; len], len, kept: false }
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut out = Self::stale(len);
        out.fill(0.0);
        out
    }

    /// What is already in memory; it is not kept.
    pub(crate) fn from(data: Vec<f32>) -> Self {
        Self { len: data.len(), data, kept: false }
    }

    /// A copy.
    pub(crate) fn of(x: &[f32]) -> Self {
        let mut out = Self::stale(x.len());
        out.copy_from_slice(x);
        out
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        let data = std::mem::take(&mut self.data);
        let share = KEPT / rayon::current_num_threads().max(1);
        // A thread that is ending has no list any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if !data.is_empty() && free.iter().map(Vec::len).sum::<usize>() + data.len() <= share {
                free.push(data);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_zeros_are_zeros() {
        let mut first = Buffer::stale(10_000);
        first.fill(7.0);
        let place = first.as_ptr();
        drop(first);
        let second = Buffer::zeros(9_000);
        assert_eq!(second.as_ptr(), place);
        assert!(second.len() == 9_000 && second.iter().all(|x| *x == 0.0));
        let other = Buffer::of(&[1.0, 2.0]);
        assert_ne!(other.as_ptr(), place);
        assert_eq!(&*other, [1.0, 2.0]);
    }
}
