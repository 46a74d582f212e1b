//! One decoder layer, forward and backward side by side: two branches, `x += [norm] body([norm] x)`, the first with attention for its
//! body, the second with a gated feed-forward layer. The backward forms input gradients and adapter gradients and never a gradient
//! of a frozen weight; norms and gates are recomputed in it instead of kept. What a layer lacks was decided when it was built.

use crate::Projection;
use crate::architecture::{Activation, Attention};
use crate::engine::{Caches, Columns, Engine, Norm, Turn};

/// Widths of the attention heads and where they lie in a fused `[q | k | v]` row, and how scores are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) key_value: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
    pub(crate) soft_cap: Option<f32>,
    pub(crate) window: Option<usize>,
}

impl Heads {
    pub(crate) fn of(a: &Attention) -> Self {
        let Attention { heads, kv_heads, head_dim, scale, soft_cap, window, .. } = *a;
        Self { query: heads, key_value: kv_heads, dim: head_dim, scale, soft_cap, window }
    }
    #[cfg(test)]
    pub(crate) fn plain(query: usize, key_value: usize, dim: usize) -> Self {
        Self { query, key_value, dim, scale: 1.0 / (dim as f32).sqrt(), soft_cap: None, window: None }
    }
    pub(crate) fn query_width(self) -> usize {
        self.query * self.dim
    }
    pub(crate) fn key_value_width(self) -> usize {
        self.key_value * self.dim
    }
    /// Width of a fused row.
    pub(crate) fn fused_width(self) -> usize {
        self.query_width() + 2 * self.key_value_width()
    }
    /// Where queries and keys lie in a fused row.
    fn queries_and_keys(self) -> [Columns; 2] {
        let (stride, q) = (self.fused_width(), self.query_width());
        [Columns { stride, at: 0, width: q }, Columns { stride, at: q, width: self.key_value_width() }]
    }
}

/// Projections that read the same rows, computed as one product; adapters act on each by itself.
#[derive(Debug)]
pub(crate) struct Linear<E: Engine> {
    pub(crate) matrix: E::Matrix,
    pub(crate) bias: Option<E::Vector>,
    pub(crate) layer: usize,
    /// Each projection and its output features, side by side.
    pub(crate) widths: Vec<(Projection, usize)>,
}

impl<E: Engine> Linear<E> {
    /// Each projection and where its output lies.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Projection, Columns)> {
        let stride = self.widths.iter().map(|(_, w)| w).sum();
        self.widths.iter().scan(0, move |next, &(projection, width)| {
            let at = *next;
            *next += width;
            Some((projection, Columns { stride, at, width }))
        })
    }
}

/// Norms around a branch's body.
#[derive(Debug)]
pub(crate) struct Branch<E: Engine> {
    pub(crate) before: Option<Norm<E>>,
    pub(crate) after: Option<Norm<E>>,
}

/// One decoder layer's frozen weights; q, k, v and gate, up are fused.
#[derive(Debug)]
pub(crate) struct Layer<E: Engine> {
    pub(crate) attention: Branch<E>,
    pub(crate) qkv: Linear<E>,
    pub(crate) q_norm: Option<Norm<E>>,
    pub(crate) k_norm: Option<Norm<E>>,
    pub(crate) heads: Heads,
    pub(crate) rope: Option<usize>,
    pub(crate) o: Linear<E>,
    pub(crate) mlp: Branch<E>,
    pub(crate) gate_up: Linear<E>,
    pub(crate) activation: Activation,
    pub(crate) width: usize,
    pub(crate) down: Linear<E>,
    pub(crate) hidden: usize,
}

/// What the backward of one layer needs.
#[derive(Debug)]
pub(crate) struct Tape<E: Engine> {
    input: E::Buffer,
    /// Fused rows before the norms of queries and keys, if there are any.
    unnormed: E::Buffer,
    qkv: E::Buffer,
    attended: E::Buffer,
    lse: E::Buffer,
    /// What attention wrote, before the norm after it, if there is one.
    attention_out: E::Buffer,
    middle: E::Buffer,
    gate_up: E::Buffer,
    mlp_out: E::Buffer,
    kept: E::Kept,
}

impl<E: Engine> Default for Tape<E> {
    fn default() -> Self {
        Self {
            input: E::Buffer::default(),
            unnormed: E::Buffer::default(),
            qkv: E::Buffer::default(),
            attended: E::Buffer::default(),
            lse: E::Buffer::default(),
            attention_out: E::Buffer::default(),
            middle: E::Buffer::default(),
            gate_up: E::Buffer::default(),
            mlp_out: E::Buffer::default(),
            kept: E::Kept::default(),
        }
    }
}

impl<E: Engine> Branch<E> {
    /// What the body reads.
    fn open(&self, engine: &E, x: &E::Buffer, out: &mut E::Buffer) {
        match &self.before {
            Some(norm) => engine.norm(x, norm, out),
            None => engine.copy_into(x, out),
        }
    }

    /// Backward of [`Branch::open`]: adds the gradient of `x`.
    fn open_back(&self, engine: &E, x: &E::Buffer, g: &E::Buffer, dx: &mut E::Buffer) {
        match &self.before {
            Some(norm) => engine.norm_back(x, norm, g, dx),
            None => engine.add(g, dx),
        }
    }

    /// Adds what the body's last projection writes to `hidden`; returns it where the backward needs it. `spare` is overwritten.
    fn close(
        &self,
        engine: &E,
        plan: &E::Plan<'_>,
        last: &Linear<E>,
        body: &E::Buffer,
        (hidden, spare): (&mut E::Buffer, &mut E::Buffer),
        len: usize,
        kept: Option<&mut E::Kept>,
    ) -> Option<E::Buffer> {
        let Some(norm) = &self.after else {
            engine.project(plan, last, body, hidden, true, kept);
            return None;
        };
        let mut out = engine.buffer(len, kept.is_some());
        engine.project(plan, last, body, &mut out, false, kept);
        engine.norm(&out, norm, spare);
        engine.add(spare, hidden);
        Some(out)
    }

    /// The gradient of what the last projection wrote, where it is not that of `hidden` itself.
    fn close_back(&self, engine: &E, out: &E::Buffer, len: usize, d_hidden: &E::Buffer) -> Option<E::Buffer> {
        let norm = self.after.as_ref()?;
        let mut d_out = engine.zeros(len);
        engine.norm_back(out, norm, d_hidden, &mut d_out);
        Some(d_out)
    }
}

impl<E: Engine> Layer<E> {
    /// Runs the layer over `hidden: [t, d]` in place, then the chunk's injections at its output.
    pub(crate) fn forward(
        &self,
        engine: &E,
        plan: &E::Plan<'_>,
        hidden: &mut E::Buffer,
        caches: &mut Caches<'_, E::Cache>,
        mut tape: Option<&mut Tape<E>>,
    ) {
        let (layer, heads, keep) = (self.qkv.layer, self.heads, tape.is_some());
        let (t, d, f) = (engine.chunk(plan).len(), self.hidden, self.width);
        if let Some(tape) = tape.as_deref_mut() {
            tape.input = engine.copy(hidden);
        }
        let mut normed = engine.buffer(t * d, keep);
        self.attention.open(engine, hidden, &mut normed);
        let mut qkv = engine.buffer(t * heads.fused_width(), keep);
        let kept = tape.as_deref_mut().map(|t| &mut t.kept);
        engine.project(plan, &self.qkv, &normed, &mut qkv, false, kept);
        let [queries, keys] = heads.queries_and_keys();
        if let Some(tape) = tape.as_deref_mut().filter(|_| self.q_norm.is_some()) {
            tape.unnormed = engine.copy(&qkv);
        }
        for (norm, columns) in [(&self.q_norm, queries), (&self.k_norm, keys)] {
            if let Some(norm) = norm {
                engine.norm_columns(&mut qkv, columns, norm);
            }
        }
        if let Some(rope) = self.rope {
            engine.rotate(plan, rope, heads, &mut qkv, Turn::Forward);
        }
        let mut attended = engine.buffer(t * heads.query_width(), keep);
        let mut lse = engine.buffer(t * heads.query, keep);
        engine.attend(plan, layer, heads, &qkv, caches, &mut attended, &mut lse);
        let kept = tape.as_deref_mut().map(|t| &mut t.kept);
        let out =
            self.attention.close(engine, plan, &self.o, &attended, (&mut *hidden, &mut normed), t * d, kept);
        if let Some(tape) = tape.as_deref_mut() {
            tape.attention_out = out.unwrap_or_default();
            tape.middle = engine.copy(hidden);
        }
        self.mlp.open(engine, hidden, &mut normed);
        let mut gate_up = engine.buffer(t * 2 * f, keep);
        let kept = tape.as_deref_mut().map(|t| &mut t.kept);
        engine.project(plan, &self.gate_up, &normed, &mut gate_up, false, kept);
        let mut activated = engine.buffer(t * f, keep);
        engine.gate(self.activation, &gate_up, f, &mut activated);
        let kept = tape.as_deref_mut().map(|t| &mut t.kept);
        let out =
            self.mlp.close(engine, plan, &self.down, &activated, (&mut *hidden, &mut normed), t * d, kept);
        if let Some(tape) = tape {
            tape.mlp_out = out.unwrap_or_default();
            tape.qkv = qkv;
            tape.attended = attended;
            tape.lse = lse;
            tape.gate_up = gate_up;
        }
        engine.inject(plan, layer, d, hidden);
    }

    /// Backward of [`Layer::forward`] (without caches): turns the gradient of the output, `d_hidden: [t, d]`, into the gradient of
    /// the input, and adds adapter gradients. Consumes the tape. Unless `needs_input`, what only the input's gradient needs is left out.
    pub(crate) fn backward(
        &self,
        engine: &E,
        plan: &E::Plan<'_>,
        tape: Tape<E>,
        d_hidden: &mut E::Buffer,
        grads: &mut E::Grads,
        needs_input: bool,
    ) {
        let (layer, heads, kept) = (self.qkv.layer, self.heads, &tape.kept);
        let (t, d, f) = (engine.chunk(plan).len(), self.hidden, self.width);
        engine.inject_back(plan, layer, d, d_hidden);

        // Feed-forward: hidden = middle + [norm] down(gate(gate_up([norm] middle))).
        let mut d_gate_up = tape.gate_up;
        let mut activated = engine.buffer(t * f, true);
        engine.gate_again(self.activation, &mut d_gate_up, f, &mut activated);
        let mut d_activated = engine.buffer(t * f, true);
        let d_out = self.mlp.close_back(engine, &tape.mlp_out, t * d, d_hidden);
        let d_out = d_out.as_ref().unwrap_or(d_hidden);
        engine.project_back(plan, &self.down, &activated, d_out, Some(&mut d_activated), kept, grads);
        engine.gate_back(&mut d_gate_up, f, &d_activated);
        let mut normed = engine.buffer(t * d, true);
        self.mlp.open(engine, &tape.middle, &mut normed);
        let mut d_normed = engine.buffer(t * d, true);
        engine.project_back(plan, &self.gate_up, &normed, &d_gate_up, Some(&mut d_normed), kept, grads);
        self.mlp.open_back(engine, &tape.middle, &d_normed, d_hidden);

        // Attention: middle = input + [norm] o(attend(rotate([norms] qkv([norm] input)))).
        let mut d_attended = engine.buffer(t * heads.query_width(), true);
        let d_out = self.attention.close_back(engine, &tape.attention_out, t * d, d_hidden);
        let d_out = d_out.as_ref().unwrap_or(d_hidden);
        engine.project_back(plan, &self.o, &tape.attended, d_out, Some(&mut d_attended), kept, grads);
        let mut d_qkv = engine.attend_back(plan, heads, &tape.qkv, &tape.attended, &tape.lse, &d_attended);
        if let Some(rope) = self.rope {
            engine.rotate(plan, rope, heads, &mut d_qkv, Turn::Backward);
        }
        let [queries, keys] = heads.queries_and_keys();
        for (norm, columns) in [(&self.q_norm, queries), (&self.k_norm, keys)] {
            if let Some(norm) = norm {
                engine.norm_columns_back(&tape.unnormed, columns, norm, &mut d_qkv);
            }
        }
        self.attention.open(engine, &tape.input, &mut normed);
        let dx = needs_input.then_some(&mut d_normed);
        engine.project_back(plan, &self.qkv, &normed, &d_qkv, dx, kept, grads);
        if needs_input {
            self.attention.open_back(engine, &tape.input, &d_normed, d_hidden);
        }
    }
}
