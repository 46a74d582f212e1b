//! A checked spec: everything resolved that can be without weights.

use lm::InjectionMode;

use super::Spec;

/// What a spec may cost at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// FLOPs.
    pub flops: f64,
    /// Bytes held while it runs: vectors, keys and values, words.
    pub bytes: f64,
}

impl Default for Cap {
    /// A PFLOP (some 40 minutes of two cores) and 1 GiB.
    fn default() -> Self {
        Self { flops: 1e15, bytes: f64::from(1 << 30) }
    }
}

/// What a spec costs, from its form alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Tokens that go through a model (replies at their full length).
    pub tokens: usize,
    /// FLOPs: two for every weight that a token meets.
    pub flops: f64,
    /// Bytes: vectors in f32, keys and values of what is generated, the words of logit lenses.
    pub bytes: f64,
}

/// A spec that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(super) spec: Spec,
    pub(super) steps: Vec<Planned>,
    pub(super) vectors: Vec<String>,
    pub(super) out: Vec<String>,
    pub(super) cost: Cost,
    pub(super) digest: String,
}

impl Plan {
    /// The spec in its canonical form: defaults filled in, depths as layers.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Identity of what it computes: SHA-256 over `"spec-v1\0"` and the canonical JSON of the spec with defaults filled in,
    /// depths resolved to layers, inputs replaced by digests of their tokens, and the base model's digest. Keys the cache of
    /// activations and names the folder of a job's outputs; the job itself goes by the spec's text.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Planned {
    Forward {
        tokens: Vec<u32>,
        adapters: Vec<String>,
        collect: Vec<Read>,
        inject: Vec<Put>,
    },
    Sub {
        id: String,
        a: String,
        b: String,
    },
    MeanOfPositions {
        id: String,
        of: String,
    },
    MeanOfIds {
        id: String,
        of: Vec<String>,
    },
    Scale {
        id: String,
        a: String,
        coef: f32,
        per: Option<String>,
    },
    Unembed {
        id: String,
        a: String,
        k: usize,
    },
    Generate {
        id: String,
        tokens: Vec<u32>,
        adapters: Vec<String>,
        inject: Vec<Put>,
        sampling: lm::Sampling,
        max: usize,
        seed: u64,
    },
}

/// Vectors to read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    pub(super) id: String,
    pub(super) layer: usize,
    pub(super) positions: Vec<usize>,
}

/// Vectors to inject.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Put {
    pub(crate) layer: usize,
    pub(crate) positions: Vec<usize>,
    pub(crate) src: String,
    pub(crate) mode: InjectionMode,
    pub(crate) coef: f32,
}
