//! Forms that the code writes key by key, here as types: what is in them, and what their keys mean.
#![expect(dead_code, reason = "their fields are only looked at by the derive")]

use std::collections::BTreeMap;

use recipes::Episode;
use registry::{AdapterRecord, Digest, Role, Status};
use schemars::JsonSchema;

#[derive(JsonSchema)]
pub(super) struct Receipt {
    /// `receipt/1`.
    #[schemars(extend("const" = "receipt/1"))]
    schema: String,
    /// What the catalogue knows of the adapter.
    adapter: AdapterRecord,
}

#[derive(JsonSchema)]
pub(super) struct Merged {
    /// `merged/1`.
    #[schemars(extend("const" = "merged/1"))]
    schema: String,
    /// The adapter that is in the weights.
    adapter: AdapterRecord,
    /// Type of the weights.
    torch_dtype: String,
    /// What it was merged into.
    base: MergedInto,
}

#[derive(JsonSchema)]
struct MergedInto {
    /// Name.
    name: String,
    /// Revision, of one from the Hub.
    revision: Option<String>,
    /// Digest of its weights.
    weights_blake3: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Bundle {
    /// `bundle/1`.
    #[schemars(extend("const" = "bundle/1"))]
    schema: String,
    /// The adapters; their files are `blobs/<digest>` of the bundle.
    #[schemars(length(max = exchange::bundle::MAX_ADAPTERS))]
    adapters: Vec<AdapterRecord>,
}

#[derive(JsonSchema)]
#[schemars(transparent)]
pub(super) struct Aliases(BTreeMap<String, String>);

#[derive(JsonSchema)]
pub(super) struct Run {
    /// `run/3`.
    #[schemars(extend("const" = "run/3"))]
    schema: String,
    /// Name of the run.
    run: String,
    /// The job that made the report, by its specification's hash.
    job: String,
    /// Master seed.
    seed: u64,
    /// A few steps for every reader: the numbers mean nothing.
    smoke: bool,
    /// Digest of the base model.
    base: String,
    /// Ids of the readers.
    #[serde(default)]
    readers: Vec<String>,
    /// Ids of the adapters that were asked about.
    #[serde(default)]
    asked: Vec<String>,
    /// Each arm's name and the jobs of its scores, by their specifications' hashes.
    arms: Vec<(String, Vec<String>)>,
    /// The contrast that was declared beforehand.
    primary: Option<compare::comparison::Primary>,
    /// The questions that readers are trained on and asked.
    episodes: Vec<Episode>,
    /// Ids of all adapters by behaviour.
    adapters: BTreeMap<String, String>,
}

#[derive(JsonSchema)]
pub(super) struct IndexLine {
    /// Identity of the adapter: digest of what it was made from and of its files.
    #[schemars(regex(pattern = "^[0-9a-f]{32}$"))]
    id: String,
    /// Where it lies, as a folder that PEFT loads: `adapters/`, the id's first two digits, `/`, the id.
    #[schemars(regex(pattern = "^adapters/[0-9a-f]{2}/[0-9a-f]{32}$"))]
    folder: String,
    /// What it was trained to do, or the reader's name.
    #[schemars(length(max = 1000))]
    behaviour: String,
    /// Family of behaviours, or kind of reader.
    family: String,
    /// The label within the family.
    value: String,
    /// Category of the label.
    category: String,
    /// Split of the label, if it has one.
    split: Option<String>,
    /// What it is for.
    role: Role,
    /// What the gate said.
    status: Status,
    /// Rank of the LoRA.
    rank: usize,
    /// Numerator of its scaling `lora_alpha / rank`.
    lora_alpha: f32,
    /// The model it belongs to.
    base_model: String,
    /// Free tags.
    tags: BTreeMap<String, String>,
    /// Gate rates, losses, steps, tokens, seconds.
    metrics: BTreeMap<String, f64>,
    /// Digests and versions.
    lineage: BTreeMap<String, String>,
    /// Ids of adapters it was made from.
    parents: Vec<String>,
    /// BLAKE3 of adapter_model.safetensors.
    weights_blake3: Digest,
    /// Size of that file.
    weights_bytes: u64,
}

#[derive(JsonSchema)]
pub(super) struct DitConfig {
    /// `dit_config/1`.
    #[schemars(extend("const" = "dit_config/1"))]
    schema: String,
    /// The base model.
    base_model: String,
    /// Factor of a weight difference on which the reader is stacked; none if it is not known.
    #[schemars(required, extend("exclusiveMinimum" = 0, "maximum" = 100))]
    diff_scale: Option<f64>,
    /// How it is asked, for people.
    about: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ErrorLine {
    /// What went wrong.
    error: Said,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Said {
    /// The exit code.
    #[schemars(extend("enum" = [1, 2, 3, 5, 130]))]
    code: u8,
    /// One sentence.
    message: String,
    /// Its causes, the nearest first.
    causes: Vec<String>,
    /// What can be done, often a command that can be typed; none or one.
    hints: Vec<String>,
}
