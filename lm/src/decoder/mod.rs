//! What a decoder does: forward and hand-derived backward, written once, driven by a description and computed by an engine.

pub(crate) mod chunk;
pub(crate) mod head;
pub(crate) mod layer;
pub(crate) mod pass;

use rayon::prelude::*;

use crate::architecture::{Part, Slot};
use crate::checkpoint::{Checkpoint, Places};
use crate::engine::{Angles, Engine, Norm, Stored};
use crate::{Architecture, Error, Projection, Result};

use layer::{Branch, Heads, Layer, Linear};

/// A decoder with frozen weights, ready to compute. Shared by reference between threads.
#[derive(Debug)]
pub(crate) struct Model<E: Engine> {
    pub(crate) architecture: Architecture,
    pub(crate) digest: String,
    pub(crate) engine: E,
    pub(crate) layers: Vec<Layer<E>>,
    pub(crate) embedding: E::Table,
    pub(crate) final_norm: Norm<E>,
    pub(crate) head: E::Matrix,
    ropes: Vec<Angles>,
}

/// Packs the parts of a model straight from where its tensors are.
struct Packer<'a, E: Engine> {
    checkpoint: &'a Checkpoint,
    places: Places,
    engine: &'a E,
}

impl<E: Engine> Packer<'_, E> {
    fn from(&self, slot: Slot) -> Result<Stored<'_>> {
        let tensor = self.places.get(slot).ok_or_else(|| Error::Tensor {
            name: format!("{slot:?}"),
            what: "is missing from the description".into(),
        })?;
        Ok((self.checkpoint.source(), tensor))
    }

    fn norm(&self, slot: Slot, eps: f64) -> Result<Norm<E>> {
        Ok(Norm { weight: self.engine.vector(&[self.from(slot)?])?, eps: eps as f32 })
    }

    /// Projections that read the same, side by side.
    fn linear(&self, layer: usize, projections: &[Projection], bias: bool) -> Result<Linear<E>> {
        let of = |slot: fn(usize, Projection) -> Slot| {
            projections.iter().map(|p| self.from(slot(layer, *p))).collect::<Result<Vec<_>>>()
        };
        let widths = projections.iter().map(|p| (*p, self.checkpoint.architecture.features(layer, *p).1));
        Ok(Linear {
            matrix: self.engine.matrix(&of(Slot::Weight)?)?,
            bias: if bias { Some(self.engine.vector(&of(Slot::Bias)?)?) } else { None },
            layer,
            widths: widths.collect(),
        })
    }

    fn layer(&self, i: usize) -> Result<Layer<E>> {
        use Projection::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        let plan = &self.checkpoint.architecture.layers[i];
        let (a, norms) = (&plan.attention, plan.norms);
        let norm = |wanted: bool, part: Part| {
            wanted.then(|| self.norm(Slot::Norm(i, part), norms.plan.eps)).transpose()
        };
        let branch = |before: Part, after: Part| -> Result<Branch<E>> {
            Ok(Branch { before: norm(norms.before, before)?, after: norm(norms.after, after)? })
        };
        let qk = a.qk_norm.is_some();
        Ok(Layer {
            attention: branch(Part::BeforeAttention, Part::AfterAttention)?,
            qkv: self.linear(i, &[QProj, KProj, VProj], a.qkv_bias)?,
            q_norm: norm(qk, Part::Queries)?,
            k_norm: norm(qk, Part::Keys)?,
            heads: Heads::of(a),
            rope: a.rope,
            o: self.linear(i, &[OProj], a.out_bias)?,
            mlp: branch(Part::BeforeMlp, Part::AfterMlp)?,
            gate_up: self.linear(i, &[GateProj, UpProj], plan.mlp.bias)?,
            activation: plan.mlp.activation,
            width: plan.mlp.width,
            down: self.linear(i, &[DownProj], plan.mlp.bias)?,
            hidden: self.checkpoint.architecture.hidden_size,
        })
    }
}

impl<E: Engine> Model<E> {
    /// Packs a checkpoint's weights, one tensor at a time on every core.
    ///
    /// # Errors
    /// If a tensor cannot be read or holds a value that is not finite, or the files change meanwhile.
    pub(crate) fn new(checkpoint: &Checkpoint, engine: E) -> Result<Self> {
        let architecture = checkpoint.architecture.clone();
        let packer = Packer { checkpoint, places: checkpoint.places(), engine: &engine };
        let layers =
            (0..architecture.layers.len()).into_par_iter().map(|i| packer.layer(i)).collect::<Result<_>>()?;
        let embedding = engine.table(packer.from(Slot::Embedding)?)?;
        let head = if architecture.tied { Slot::Embedding } else { Slot::Head };
        let head = engine.matrix(&[packer.from(head)?])?;
        let final_norm = packer.norm(Slot::FinalNorm, architecture.final_norm.eps)?;
        let ropes = architecture.ropes.iter().map(|r| Angles::new(r, architecture.context)).collect();
        checkpoint.source().unchanged()?;
        let digest = checkpoint.digest.clone();
        Ok(Self { architecture, digest, engine, layers, embedding, final_norm, head, ropes })
    }

    pub(crate) fn hidden_size(&self) -> usize {
        self.architecture.hidden_size
    }
}
