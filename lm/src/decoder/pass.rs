//! The loop over the layers: the only one.

use super::Model;
use super::chunk::Chunk;
use super::layer::Tape;
use crate::engine::{Caches, Engine};

impl<E: Engine> Model<E> {
    /// A chunk with what the engine prepares for it.
    pub(crate) fn plan<'c>(&self, chunk: Chunk<'c>) -> E::Plan<'c> {
        self.engine.plan(chunk, &self.ropes)
    }

    /// Embeds a chunk's tokens and runs the first `layers` layers; returns the residual stream, `[t, d]`. `tapes`, if wanted, receive
    /// what the backward needs; `after` sees the residual stream after each layer.
    pub(crate) fn pass(
        &self,
        plan: &E::Plan<'_>,
        layers: usize,
        caches: &mut Caches<'_, E::Cache>,
        mut tapes: Option<&mut Vec<Tape<E>>>,
        mut after: impl FnMut(usize, &E::Buffer),
    ) -> E::Buffer {
        let mut hidden = self.engine.embed(plan, &self.embedding, self.architecture.embedding_scale);
        for (i, layer) in self.layers[..layers].iter().enumerate() {
            let tape = tapes.as_deref_mut().map(|tapes| {
                tapes.push(Tape::default());
                &mut tapes[i]
            });
            layer.forward(&self.engine, plan, &mut hidden, caches, tape);
            after(i, &hidden);
        }
        hidden
    }

    /// All layers, with nothing kept but the residual stream at the end.
    pub(crate) fn whole_pass(&self, plan: &E::Plan<'_>, caches: &mut Caches<'_, E::Cache>) -> E::Buffer {
        self.pass(plan, self.layers.len(), caches, None, |_, _| {})
    }

    /// Backward of [`Model::pass`]: from the gradient of the residual stream at the end to the adapters' gradients. The first layer's
    /// input gradient is not formed: nothing below it is trainable.
    pub(crate) fn pass_back(
        &self,
        plan: &E::Plan<'_>,
        tapes: Vec<Tape<E>>,
        mut d_hidden: E::Buffer,
        grads: &mut E::Grads,
    ) {
        for (i, tape) in tapes.into_iter().enumerate().rev() {
            self.layers[i].backward(&self.engine, plan, tape, &mut d_hidden, grads, i > 0);
        }
    }
}
