//! A chunk: some rows of a batch, concatenated, computed by one thread from the first layer to the last.
//!
//! Chunks are cut by rules that look only at the rows of one adapter list, never at the rest of the batch or at the
//! number of threads. So an adapter's results are the same, bit for bit, alone or among others.

use crate::Adapter;
use crate::batch::{Batch, Injection};

/// Consecutive tokens of one sequence. A span with a parent goes on where the parent ended: it sees the parent's tokens
/// and all that the parent sees. Parents come before their children.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) parent: Option<usize>,
}

/// Where one row's tokens lie: in the spans from its beginning to its end.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Index of the row in the batch.
    pub(crate) row: usize,
    /// Spans on the row's way, the first token's first.
    path: Vec<(usize, usize)>,
}

impl Place {
    /// Tokens of the row that are computed.
    pub(crate) fn len(&self) -> usize {
        self.path.iter().map(|(_, len)| len).sum()
    }

    /// Index in the chunk of the row's token at `position`.
    pub(crate) fn token(&self, mut position: usize) -> usize {
        for &(start, len) in &self.path {
            if position < len {
                return start + position;
            }
            position -= len;
        }
        unreachable!("invariant: positions were checked against the row")
    }
}

/// Consecutive rows with the same adapters.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) adapters: Vec<(usize, &'a Adapter)>,
}

#[derive(Debug, Default)]
pub(crate) struct Chunk<'a> {
    pub(crate) tokens: Vec<u32>,
    /// Position of each token in its own sequence.
    pub(crate) positions: Vec<usize>,
    pub(crate) spans: Vec<Span>,
    /// One for each row.
    pub(crate) places: Vec<Place>,
    pub(crate) segments: Vec<Segment<'a>>,
    /// Index of the token in the chunk, and what is added there.
    pub(crate) injections: Vec<(usize, &'a Injection)>,
}

impl<'a> Chunk<'a> {
    /// Gathers rows (without their last `drop_last` tokens), one span a row in their order; `first_position` says where
    /// each row's tokens begin.
    pub(crate) fn new(
        batch: &'a Batch<'a>,
        rows: &[usize],
        drop_last: usize,
        first_position: impl Fn(usize) -> usize,
    ) -> Self {
        let mut chunk = Self::default();
        for &index in rows {
            let row = &batch.rows[index];
            let len = row.tokens.len() - drop_last;
            let span = chunk.push(batch, index, &row.tokens[..len], first_position(index), None);
            let start = chunk.spans[span].start;
            chunk.injections.extend(row.injections.iter().map(|j| (start + j.position, j)));
            chunk.places.push(Place { row: index, path: vec![(start, len)] });
        }
        chunk
    }

    /// Gathers rows (without their last `drop_last` tokens) so that what rows of the same adapters have in common at
    /// their beginnings is computed once. Only the first `shareable(row)` tokens of a row are shared, and none from its
    /// first injection on. The rows' order in `places` is that of their beginnings in the tree.
    pub(crate) fn sharing(
        batch: &'a Batch<'a>,
        rows: &[usize],
        drop_last: usize,
        shareable: impl Fn(usize) -> usize,
    ) -> Self {
        let mut chunk = Self::default();
        let mut groups: Vec<(&[usize], Vec<Stem>)> = Vec::new();
        for &index in rows {
            let row = &batch.rows[index];
            let len = row.tokens.len() - drop_last;
            let injected = row.injections.iter().map(|j| j.position).min().unwrap_or(len);
            let stem = Stem { row: index, len, shared: shareable(index).min(injected).min(len) };
            match groups.iter_mut().find(|(adapters, _)| *adapters == row.adapters) {
                Some((_, stems)) => stems.push(stem),
                None => groups.push((&row.adapters, vec![stem])),
            }
        }
        for (_, stems) in groups {
            chunk.grow(batch, &stems, 0, None, &[]);
        }
        chunk
    }

    /// Adds rows that agree up to `from`, where their common part, span `parent`, ends.
    fn grow(
        &mut self,
        batch: &'a Batch<'a>,
        stems: &[Stem],
        from: usize,
        parent: Option<usize>,
        path: &[(usize, usize)],
    ) {
        let token = |s: &Stem, at: usize| batch.rows[s.row].tokens[at];
        let mut branches: Vec<Vec<Stem>> = Vec::new();
        for stem in stems {
            let joins = |branch: &Vec<Stem>| {
                let first = branch[0];
                from < stem.shared && from < first.shared && token(&first, from) == token(stem, from)
            };
            match branches.iter_mut().find(|b| joins(b)) {
                Some(branch) => branch.push(*stem),
                None => branches.push(vec![*stem]),
            }
        }
        for branch in branches {
            let first = branch[0];
            let mut end = first.len;
            if branch.len() > 1 {
                end = branch.iter().map(|s| s.shared).min().unwrap_or(from);
                let agree = |at: &usize| branch.iter().all(|s| token(s, *at) == token(&first, *at));
                end = (from..end).find(|at| !agree(at)).unwrap_or(end);
            }
            let mut path = path.to_vec();
            let mut parent = parent;
            if end > from {
                let tokens = &batch.rows[first.row].tokens[from..end];
                let span = self.push(batch, first.row, tokens, from, parent);
                path.push((self.spans[span].start, end - from));
                parent = Some(span);
            }
            if branch.len() > 1 {
                self.grow(batch, &branch, end, parent, &path);
                continue;
            }
            let place = Place { row: first.row, path };
            // What is injected into a dropped last token changes nothing.
            let injections = batch.rows[first.row].injections.iter().filter(|j| j.position < first.len);
            self.injections.extend(injections.map(|j| (place.token(j.position), j)));
            self.places.push(place);
        }
    }

    /// Appends a span of the row's sequence.
    fn push(
        &mut self,
        batch: &'a Batch<'a>,
        index: usize,
        tokens: &[u32],
        first_position: usize,
        parent: Option<usize>,
    ) -> usize {
        let (start, len) = (self.tokens.len(), tokens.len());
        self.tokens.extend(tokens);
        self.positions.extend((0..len).map(|i| first_position + i));
        self.spans.push(Span { start, len, parent });
        let adapters = &batch.rows[index].adapters;
        let same = self
            .segments
            .last()
            .is_some_and(|s: &Segment<'_>| s.adapters.iter().map(|(i, _)| i).eq(adapters.iter()));
        match self.segments.last_mut() {
            Some(segment) if same => segment.len += len,
            _ => self.segments.push(Segment {
                start,
                len,
                adapters: adapters.iter().map(|&a| (a, batch.adapters[a])).collect(),
            }),
        }
        self.spans.len() - 1
    }

    /// The spans that hold a row's tokens, from its beginning to its end.
    pub(crate) fn spans_of(&self, place: &Place) -> impl Iterator<Item = usize> {
        place.path.iter().map(|&(start, _)| self.spans.partition_point(|s| s.start < start))
    }

    /// The spans above a span, the first token's first.
    pub(crate) fn ancestors(&self, span: usize) -> Vec<usize> {
        let mut above: Vec<usize> =
            std::iter::successors(self.spans[span].parent, |&s| self.spans[s].parent).collect();
        above.reverse();
        above
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// A row on its way into the tree.
#[derive(Debug, Clone, Copy)]
struct Stem {
    row: usize,
    len: usize,
    shared: usize,
}

/// Splits rows into near-equal chunks of at most `limit` tokens or so: a multiple of `at_least` of them (fewer where there is
/// less to do than an eighth of the limit for each). `lengths[i]` is row i's token count. Passes without gradient give the
/// same bits however rows are split, so they may ask for one chunk a thread.
pub(crate) fn split(
    rows: &[usize],
    lengths: impl Fn(usize) -> usize,
    limit: usize,
    at_least: usize,
) -> Vec<Vec<usize>> {
    let total: usize = rows.iter().map(|&r| lengths(r)).sum();
    let worth = at_least.min(total / (limit / 8).max(1)).max(1);
    let pieces = total.div_ceil(limit).max(1).next_multiple_of(worth);
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
    fn shared_beginnings_are_computed_once_and_every_row_finds_its_tokens() {
        let rows: Vec<Vec<u32>> = vec![
            vec![1, 2, 3, 4, 9],
            vec![1, 2, 3, 5, 9],
            vec![1, 2, 7],
            vec![8, 2, 3],
            vec![1, 2, 3, 4, 9],
            vec![1, 2],
        ];
        let batch = Batch { adapters: vec![], rows: rows.iter().cloned().map(crate::Row::plain).collect() };
        let all: Vec<usize> = (0..rows.len()).collect();
        for shared in 0..6 {
            let chunk = Chunk::sharing(&batch, &all, 1, |_| shared);
            let mut seen = Vec::new();
            for place in &chunk.places {
                let row = &rows[place.row];
                assert_eq!(place.len(), row.len() - 1);
                for (i, token) in row[..row.len() - 1].iter().enumerate() {
                    assert_eq!((chunk.tokens[place.token(i)], chunk.positions[place.token(i)]), (*token, i));
                }
                seen.push(place.row);
            }
            seen.sort_unstable();
            assert_eq!(seen, all);
            let computed = [17, 13, 10, 8, 7, 7][shared];
            assert_eq!(chunk.len(), computed, "{shared}");
            for (i, span) in chunk.spans.iter().enumerate() {
                assert!(span.len > 0 && span.parent.is_none_or(|p| p < i));
            }
        }
    }

    #[test]
    fn splitting_keeps_every_row_once_and_in_order() {
        for n in [1usize, 2, 3, 17, 100] {
            for limit in [1, 50, 256, 100_000] {
                let rows: Vec<usize> = (0..n).collect();
                for at_least in [1, 2] {
                    let pieces = split(&rows, |r| 1 + (r * 7) % 40, limit, at_least);
                    assert_eq!(pieces.concat(), rows);
                }
            }
        }
    }
}
