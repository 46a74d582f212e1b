//! How a decoder is computed: the operations that a layer is made of, each forward and, where gradients pass, backward, at the grain
//! at which a device would fuse them. No operation takes a closure or knows a family of models.
//!
//! Buffers hold f32 rows, one for each token of a chunk, row-major. Whatever an operation computes for a row depends on that row
//! alone (attention: on its sequence), never on which others are in the chunk, so results do not depend on how work is cut.

pub(crate) mod cpu;

use std::fmt::Debug;

use crate::architecture::Activation;
use crate::decoder::chunk::Chunk;
use crate::decoder::head::Label;
use crate::decoder::layer::{Heads, Linear};
use crate::weights::Source;
use crate::{Precision, Result, Rope};

/// A tensor and where it is stored: what an engine packs.
pub(crate) type Stored<'a> = (&'a dyn Source, &'a crate::architecture::Tensor);

/// Where earlier keys and values come from, and where new ones go.
#[derive(Debug)]
pub(crate) enum Caches<'a, C> {
    /// No earlier tokens, nothing kept.
    None,
    /// Each span of the chunk extends its own sequence.
    Growing(Vec<&'a mut C>),
    /// Each span follows a sequence that others share, and keeps nothing.
    Shared(Vec<&'a C>),
}

/// Which way an operation's rotation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Forward,
    /// The transpose: of a gradient.
    Backward,
}

/// A weight of a norm and its epsilon.
#[derive(Debug)]
pub(crate) struct Norm<E: Engine> {
    pub(crate) weight: E::Vector,
    pub(crate) eps: f32,
}

/// Columns `at..at + width` of rows `stride` wide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) stride: usize,
    pub(crate) at: usize,
    pub(crate) width: usize,
}

/// What computes.
pub(crate) trait Engine: Debug + Send + Sync + Sized + 'static {
    /// Numbers in the engine's memory.
    type Buffer: Debug + Default + Send;
    /// A frozen linear map, ready for both directions.
    type Matrix: Debug + Send + Sync;
    /// A frozen vector.
    type Vector: Debug + Send + Sync;
    /// The token embeddings.
    type Table: Debug + Send + Sync;
    /// A chunk with what the engine prepares for it: angles, adapters.
    type Plan<'c>: Sync;
    /// What a layer's forward keeps of its adapters for the backward.
    type Kept: Debug + Default + Send;
    /// Gradients of a chunk's trainable adapters.
    type Grads: Debug + Send;
    /// Keys and values of a sequence, layer by layer.
    type Cache: Debug + Clone + Send + Sync;

    /// How products with frozen weights are computed.
    fn precision(&self) -> Precision;

    /// Packs matrices `[out, in]`, one below the other, straight from where they come.
    fn matrix(&self, parts: &[Stored<'_>]) -> Result<Self::Matrix>;
    /// Packs vectors, one after the other.
    fn vector(&self, parts: &[Stored<'_>]) -> Result<Self::Vector>;
    /// Packs `[vocabulary, d]`.
    fn table(&self, from: Stored<'_>) -> Result<Self::Table>;
    /// Rows of the embeddings, in host memory.
    fn table_rows(&self, table: &Self::Table, tokens: &[u32]) -> Vec<f32>;
    /// A frozen vector in host memory.
    fn vector_values<'v>(&self, vector: &'v Self::Vector) -> std::borrow::Cow<'v, [f32]>;

    /// Prepares a chunk; `ropes` are the model's.
    fn plan<'c>(&self, chunk: Chunk<'c>, ropes: &[Angles]) -> Self::Plan<'c>;
    /// The chunk of a plan.
    fn chunk<'p, 'c: 'p>(&self, plan: &'p Self::Plan<'c>) -> &'p Chunk<'c>;

    /// How many pieces of work there should be at least.
    fn parallel(&self) -> usize;
    /// Runs `work` on every item, at once where the engine can; results in order.
    fn each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R>;

    /// A buffer of any content, for what is written before it is read. `kept`: it belongs to a pass with gradient.
    fn buffer(&self, len: usize, kept: bool) -> Self::Buffer;
    /// Zeros.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// A copy that is kept for the backward.
    fn copy(&self, x: &Self::Buffer) -> Self::Buffer;
    /// Overwrites.
    fn copy_into(&self, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Numbers from host memory.
    fn upload(&self, x: Vec<f32>) -> Self::Buffer;
    /// Numbers in host memory.
    fn read<'b>(&self, x: &'b Self::Buffer) -> std::borrow::Cow<'b, [f32]>;
    /// Rows of `width` numbers, gathered.
    fn rows(&self, x: &Self::Buffer, width: usize, rows: &[usize]) -> Self::Buffer;
    /// `x[rows[i]] += y[i]`.
    fn add_rows(&self, y: &Self::Buffer, width: usize, rows: &[usize], x: &mut Self::Buffer);

    /// Token embeddings times a factor, `[t, d]`.
    fn embed(&self, plan: &Self::Plan<'_>, table: &Self::Table, scale: f32) -> Self::Buffer;
    /// `x += y`.
    fn add(&self, y: &Self::Buffer, x: &mut Self::Buffer);
    /// `out = norm(x)`, rows as wide as the norm's weight.
    fn norm(&self, x: &Self::Buffer, norm: &Norm<Self>, out: &mut Self::Buffer);
    /// `dx += ` the gradient of `x`, from that of `norm(x)`.
    fn norm_back(&self, x: &Self::Buffer, norm: &Norm<Self>, g: &Self::Buffer, dx: &mut Self::Buffer);
    /// Norms columns in place, in groups as wide as the norm's weight.
    fn norm_columns(&self, x: &mut Self::Buffer, columns: Columns, norm: &Norm<Self>);
    /// Turns the gradient of what [`Engine::norm_columns`] made of `x` into that of `x`, in place.
    fn norm_columns_back(&self, x: &Self::Buffer, columns: Columns, norm: &Norm<Self>, g: &mut Self::Buffer);

    /// `y = x W^T + b + sum over adapters of s (x A^T) B^T` (or `y += `); `kept` receives what the backward needs.
    fn project(
        &self,
        plan: &Self::Plan<'_>,
        linear: &Linear<Self>,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
        accumulate: bool,
        kept: Option<&mut Self::Kept>,
    );
    /// Backward of [`Engine::project`]: `dx = ` the input's gradient if wanted, and adds to adapters' gradients.
    fn project_back(
        &self,
        plan: &Self::Plan<'_>,
        linear: &Linear<Self>,
        x: &Self::Buffer,
        g: &Self::Buffer,
        dx: Option<&mut Self::Buffer>,
        kept: &Self::Kept,
        grads: &mut Self::Grads,
    );
    /// Gradients of these adapters, zero.
    fn grads(&self, plan: &Self::Plan<'_>, trainable: &[usize]) -> Self::Grads;
    /// Adapter indices and their gradients, each as long as its adapter's `params`.
    fn read_grads(&self, grads: Self::Grads) -> Vec<(usize, Vec<f32>)>;

    /// Rotates queries and keys of fused rows `[q | k | v]` by their positions' angles.
    fn rotate(&self, plan: &Self::Plan<'_>, rope: usize, heads: Heads, fused: &mut Self::Buffer, turn: Turn);
    /// Attention of every span, after `caches`, which it extends.
    fn attend(
        &self,
        plan: &Self::Plan<'_>,
        layer: usize,
        heads: Heads,
        fused: &Self::Buffer,
        caches: &mut Caches<'_, Self::Cache>,
        attended: &mut Self::Buffer,
        lse: &mut Self::Buffer,
    );
    /// Backward of [`Engine::attend`] without caches: the gradient of `fused`.
    fn attend_back(
        &self,
        plan: &Self::Plan<'_>,
        heads: Heads,
        fused: &Self::Buffer,
        attended: &Self::Buffer,
        lse: &Self::Buffer,
        d_attended: &Self::Buffer,
    ) -> Self::Buffer;

    /// `out = activation(gate) * up` of rows `[gate | up]`.
    fn gate(&self, activation: Activation, gate_up: &Self::Buffer, width: usize, out: &mut Self::Buffer);
    /// [`Engine::gate`] once more; `gate_up` becomes the derivatives of `out` by gate and by up.
    fn gate_again(
        &self,
        activation: Activation,
        gate_up: &mut Self::Buffer,
        width: usize,
        out: &mut Self::Buffer,
    );
    /// Turns derivatives into gradients, given the gradient of `out`.
    fn gate_back(&self, derivatives: &mut Self::Buffer, width: usize, g: &Self::Buffer);

    /// The chunk's injections at a layer's output.
    fn inject(&self, plan: &Self::Plan<'_>, layer: usize, width: usize, hidden: &mut Self::Buffer);
    /// Backward of [`Engine::inject`].
    fn inject_back(&self, plan: &Self::Plan<'_>, layer: usize, width: usize, d_hidden: &mut Self::Buffer);

    /// Logits of normed rows, capped if so.
    fn logits(&self, normed: &Self::Buffer, head: &Self::Matrix, cap: Option<f32>) -> Self::Buffer;
    /// Losses in nats of a block of labels. `logits` becomes the weighted losses' gradient by the logits before the cap; `teachers`
    /// holds the logits of those labels that have one, in order.
    fn losses(
        &self,
        labels: &[Label<'_>],
        logits: &mut Self::Buffer,
        teachers: Self::Buffer,
        vocabulary: usize,
        cap: Option<f32>,
    ) -> Vec<f64>;
    /// The gradient of normed rows, from that of logits.
    fn logits_back(&self, g: &Self::Buffer, head: &Self::Matrix) -> Self::Buffer;

    /// An empty cache of this many layers.
    fn cache(&self, layers: usize) -> Self::Cache;
    /// One sequence of consecutive parts; there is at least one.
    fn joined<'a>(&self, parts: impl Iterator<Item = &'a Self::Cache>) -> Self::Cache;
    /// Tokens held.
    fn cached(&self, cache: &Self::Cache) -> usize;
}

/// A rotary embedding's cosines and sines by position, computed when a position is first used: a model's whole context may be a
/// hundred thousand positions, a row some hundreds.
#[derive(Debug)]
pub(crate) struct Angles {
    divisors: Vec<f64>,
    factor: f64,
    blocks: Vec<std::sync::OnceLock<Block>>,
}

/// Positions of a block.
const POSITIONS: usize = 1024;

#[derive(Debug)]
struct Block {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// For positions below `context`.
    pub(crate) fn new(rope: &Rope, context: usize) -> Self {
        let blocks = (0..context.div_ceil(POSITIONS)).map(|_| std::sync::OnceLock::new()).collect();
        Self { divisors: rope.divisors(), factor: rope.attention_factor(), blocks }
    }

    /// Cosines and sines of a position, `dim / 2` each.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let block = self.blocks[position / POSITIONS].get_or_init(|| {
            let first = position / POSITIONS * POSITIONS;
            let angle = |p: usize, d: &f64| (p as f64 / d) as f32;
            // From f64, and rounded once: published implementations round each frequency and each product to f32.
            let angles: Vec<f32> = (first..first + POSITIONS)
                .flat_map(|p| self.divisors.iter().map(move |d| angle(p, d)))
                .collect();
            let factor = self.factor as f32;
            let scaled = |x: f32| if factor == 1.0 { x } else { x * factor };
            Block {
                cos: angles.iter().map(|a| scaled(a.cos())).collect(),
                sin: angles.iter().map(|a| scaled(a.sin())).collect(),
            }
        });
        let half = self.divisors.len();
        let at = position % POSITIONS * half;
        (&block.cos[at..at + half], &block.sin[at..at + half])
    }
}
