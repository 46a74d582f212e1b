//! The low-rank terms of every adapter in a chunk.

use super::kernels::executed;
use super::kernels::lowrank::{down, outer, up};
use crate::adapter::Projection;
use crate::decoder::chunk::{Chunk, Segment};
use crate::engine::Columns;

/// Gradient buffers of the trainable adapters of one chunk, each as long as its adapter's `params`.
#[derive(Debug, Default)]
pub(crate) struct Grads {
    /// `(adapter index in the batch, gradient)`.
    pub(crate) of: Vec<(usize, Vec<f32>)>,
}

impl Grads {
    pub(super) fn zeros(chunk: &Chunk<'_>, trainable: &[usize]) -> Self {
        let adapters = || chunk.segments.iter().flat_map(|s| &s.adapters);
        let size =
            |a: usize| adapters().find(|(i, _)| *i == a).map_or(0, |(_, adapter)| adapter.params.len());
        Self { of: trainable.iter().map(|&a| (a, vec![0f32; size(a)])).collect() }
    }

    fn get(&mut self, adapter: usize) -> Option<&mut Vec<f32>> {
        self.of.iter_mut().find(|(a, _)| *a == adapter).map(|(_, g)| g)
    }
}

/// What a layer's forward keeps of its low-rank terms: for each projection `x A^T` of every segment's adapters, in order.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    of: [Vec<Vec<f32>>; Projection::ALL.len()],
}

/// Adds `scaling * (x A^T) B^T` of every adapter to its rows of `y`. `x` is dense `[t, in]`.
pub(crate) fn forward(
    chunk: &Chunk<'_>,
    layer: usize,
    projection: Projection,
    x: &[f32],
    y: &mut [f32],
    columns: Columns,
    mut keep: Option<&mut Inner>,
) {
    for Segment { start, len, adapters } in &chunk.segments {
        for (_, adapter) in adapters {
            let Some(m) = adapter.module(layer, projection) else { continue };
            let x = &x[start * m.input..(start + len) * m.input];
            let y = &mut y[start * columns.stride..(start + len) * columns.stride];
            executed(2 * len * adapter.config().rank * (m.input + m.output));
            let mut h = vec![0f32; len * adapter.config().rank];
            down(x, m.input, 0, &adapter.params[m.a.clone()], m.input, &mut h);
            up(
                &h,
                &adapter.params[m.b.clone()],
                m.output,
                adapter.config().scaling(),
                y,
                columns.stride,
                columns.at,
            );
            if let Some(inner) = keep.as_deref_mut() {
                inner.of[projection as usize].push(h);
            }
        }
    }
}

/// Backward of [`forward`]: adds to `dx` (dense `[t, in]`) and, for trainable adapters, to their gradients.
pub(crate) fn backward(
    chunk: &Chunk<'_>,
    layer: usize,
    projection: Projection,
    x: &[f32],
    g: &[f32],
    columns: Columns,
    mut dx: Option<&mut [f32]>,
    inner: &Inner,
    grads: &mut Grads,
) {
    let mut inner = inner.of[projection as usize].iter();
    for Segment { start, len, adapters } in &chunk.segments {
        for (index, adapter) in adapters {
            let Some(m) = adapter.module(layer, projection) else { continue };
            let h = inner.next().expect("invariant: the forward kept every module's inner activations");
            let (rank, scaling) = (adapter.config().rank, adapter.config().scaling());
            let (a, b) = (&adapter.params[m.a.clone()], &adapter.params[m.b.clone()]);
            let x = &x[start * m.input..(start + len) * m.input];
            let g = &g[start * columns.stride..(start + len) * columns.stride];
            let mut u = vec![0f32; len * rank];
            down(g, columns.stride, columns.at, b, m.output, &mut u);
            executed(2 * len * rank * (m.input + m.output));
            if let Some(dx) = dx.as_deref_mut() {
                up(&u, a, m.input, scaling, &mut dx[start * m.input..(start + len) * m.input], m.input, 0);
            }
            if let Some(grad) = grads.get(*index) {
                executed(2 * len * rank * (m.input + m.output));
                outer(&u, rank, x, m.input, 0, m.input, scaling, &mut grad[m.a.clone()]);
                outer(h, rank, g, columns.stride, columns.at, m.output, scaling, &mut grad[m.b.clone()]);
            }
        }
    }
}
