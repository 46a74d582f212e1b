//! A chunk: some rows of a batch, concatenated, computed by one thread from the first layer to the last.
//!
//! Chunks are cut by rules that look only at the rows of one adapter list, never at the rest of the batch or at the
//! number of threads. So an adapter's results are the same, bit for bit, alone or among others.

use crate::batch::{Batch, Injection};
use crate::{Adapter, Decoder};

/// One row's place in a chunk.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// Index of the row in the batch.
    pub(crate) row: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Consecutive rows with the same adapters.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) adapters: Vec<(usize, &'a Adapter)>,
}

#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) tokens: Vec<u32>,
    /// Position of each token in its own sequence.
    pub(crate) positions: Vec<usize>,
    pub(crate) spans: Vec<Span>,
    pub(crate) segments: Vec<Segment<'a>>,
    /// Index of the token in the chunk, and what is added there.
    pub(crate) injections: Vec<(usize, &'a Injection)>,
}

impl<'a> Chunk<'a> {
    /// Gathers rows (without their last `drop_last` tokens); `first_position` says where each row's tokens begin.
    pub(crate) fn new(
        batch: &'a Batch<'a>,
        rows: &[usize],
        drop_last: usize,
        first_position: impl Fn(usize) -> usize,
    ) -> Self {
        let mut chunk =
            Self { tokens: vec![], positions: vec![], spans: vec![], segments: vec![], injections: vec![] };
        for &index in rows {
            let row = &batch.rows[index];
            let (start, len) = (chunk.tokens.len(), row.tokens.len() - drop_last);
            chunk.tokens.extend(&row.tokens[..len]);
            chunk.positions.extend((0..len).map(|i| first_position(index) + i));
            chunk.spans.push(Span { row: index, start, len });
            chunk.injections.extend(row.injections.iter().map(|j| (start + j.position, j)));
            let same = chunk
                .segments
                .last()
                .is_some_and(|s: &Segment<'_>| s.adapters.iter().map(|(i, _)| i).eq(row.adapters.iter()));
            match chunk.segments.last_mut() {
                Some(segment) if same => segment.len += len,
                _ => chunk.segments.push(Segment {
                    start,
                    len,
                    adapters: row.adapters.iter().map(|&a| (a, batch.adapters[a])).collect(),
                }),
            }
        }
        chunk
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Token embeddings, `[t, d]`.
    pub(crate) fn embed(&self, decoder: &Decoder) -> Vec<f32> {
        let d = decoder.config().hidden_size;
        self.tokens.iter().flat_map(|&t| decoder.embedding[t as usize * d..][..d].iter().copied()).collect()
    }
}

/// Splits rows into chunks of at most `limit` tokens or so: as many near-equal chunks as `ceil(tokens / limit)`, made
/// even when there is enough work for two threads. `lengths[i]` is row i's token count.
pub(crate) fn split(rows: &[usize], lengths: impl Fn(usize) -> usize, limit: usize) -> Vec<Vec<usize>> {
    let total: usize = rows.iter().map(|&r| lengths(r)).sum();
    let mut pieces = total.div_ceil(limit).max(1);
    if pieces % 2 == 1 && total >= limit / 3 {
        pieces += 1;
    }
    let pieces = pieces.min(rows.len()).max(1);
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); pieces];
    let mut seen = 0;
    for &row in rows {
        // A row goes where its middle token falls, so pieces differ by at most about one row.
        let middle = seen + lengths(row) / 2;
        out[(middle * pieces / total.max(1)).min(pieces - 1)].push(row);
        seen += lengths(row);
    }
    out.retain(|piece| !piece.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_keeps_every_row_once_and_in_order() {
        for n in [1usize, 2, 3, 17, 100] {
            for limit in [1, 50, 256, 100_000] {
                let rows: Vec<usize> = (0..n).collect();
                let pieces = split(&rows, |r| 1 + (r * 7) % 40, limit);
                assert_eq!(pieces.concat(), rows);
            }
        }
    }
}
