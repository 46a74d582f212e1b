//! The spec's form.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SpecError;
use crate::prompt::Form;

/// An intervention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spec {
    /// Version of the form: 1.
    pub v: u32,
    /// What models see, by name.
    pub inputs: BTreeMap<String, Input>,
    /// Vectors from the registry, by the id that steps use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Stored>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Ids of the vectors that are wanted back; texts and tokens always are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out: Vec<String>,
}

/// A text for a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// A conversation up to the opening of the reply.
    Chat {
        /// System prompt; none is the pinned, empty one.
        #[serde(default)]
        system: String,
        /// User turn.
        user: String,
    },
    /// An oracle's prompt: for each layer a line that names it with `slots` placeholders, then the question.
    Question {
        /// Layers named.
        layers: Vec<usize>,
        /// Placeholders of each.
        slots: usize,
        /// The question.
        text: String,
        /// How the prompt is written, where it is not written as here.
        #[serde(default, skip_serializing_if = "Form::is_own")]
        form: Form,
    },
    /// Plain text without a chat template.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// A tensor of a safetensors file in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Digest of the file.
    pub blob: String,
    /// Name of the tensor, F32 `[n, hidden_size]`.
    pub tensor: String,
    /// Which of its rows: from the first up to, and without, the second. None is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<(usize, usize)>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Step {
    /// Runs a model on an input.
    Forward(Forward),
    /// Difference.
    Sub(Sub),
    /// Average.
    Mean(Mean),
    /// Multiple.
    Scale(Scale),
    /// Logit lens.
    UnembedTopk(UnembedTopk),
    /// Lets a model answer.
    Generate(Generate),
}

/// The base model under these adapters, all of them together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Ids; none is the base model itself.
    #[serde(default)]
    pub adapters: Vec<String>,
}

/// Base and adapters on an input, as deep as its deepest `collect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Name of the step.
    pub id: String,
    /// Who runs.
    #[serde(default)]
    pub model: Model,
    /// On what.
    pub input: String,
    /// What is read; each has an id of its own.
    pub collect: Vec<Collect>,
    /// What is injected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<Inject>,
}

/// The residual stream at the output of one block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Id of the vectors.
    pub id: String,
    /// Block, counted from 0; or else `depth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Share of the blocks: index `floor(blocks x depth)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
    /// Where in the block.
    #[serde(default)]
    pub site: Site,
    /// At which tokens.
    #[serde(default)]
    pub pos: Positions,
}

/// A place in a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Its output.
    #[default]
    ResidPost,
}

/// Token positions of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Positions {
    /// Every one.
    #[default]
    All,
    /// All placeholders of a question.
    Slots,
    /// Those of one of the layers that it names.
    SlotsOf(usize),
    /// The last ones.
    Last(usize),
    /// From the first up to, and without, the second.
    Range(usize, usize),
    /// These, rising.
    At(Vec<usize>),
}

/// Elementwise `a - b`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sub {
    /// Name of the step.
    pub id: String,
    /// From this.
    pub a: String,
    /// This.
    pub b: String,
}

/// An average.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// Name of the step.
    pub id: String,
    /// Of what.
    pub of: Vec<String>,
    /// Over what.
    pub over: Over,
}

/// What is averaged over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// The positions of one id: one vector.
    Positions,
    /// Several ids, position by position.
    Ids,
}

/// A multiple: `coef * a`, each value divided by that of `per` if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Name of the step.
    pub id: String,
    /// Of what.
    pub a: String,
    /// How much.
    #[serde(default = "one")]
    pub coef: f64,
    /// Divided by, value by value (to standardise dimensions).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<String>,
}

/// Vectors into the residual stream at the output of a block, in the prompt pass only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// Block, counted from 0.
    pub layer: usize,
    /// At which tokens; as many as there are vectors.
    pub pos: Positions,
    /// Which vectors.
    pub src: String,
    /// How.
    #[serde(default)]
    pub mode: lm::InjectionMode,
    /// How strongly.
    #[serde(default = "one")]
    pub coef: f64,
}

/// The logit lens: final norm and unembedding of each vector, the most likely tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnembedTopk {
    /// Name of the step.
    pub id: String,
    /// Of what.
    pub a: String,
    /// How many tokens.
    pub k: usize,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Name of the step.
    pub id: String,
    /// Who answers.
    #[serde(default)]
    pub model: Model,
    /// To what.
    pub input: String,
    /// What is injected into the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inject: Vec<Inject>,
    /// How tokens are picked (`gumbel-ctr-v1`).
    pub sample: Sample,
}

/// Sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Temperature; 0 is greedy.
    #[serde(default)]
    pub t: f64,
    /// Most likely tokens kept; 0 keeps all.
    #[serde(default)]
    pub k: u32,
    /// Probability mass kept.
    #[serde(default = "one")]
    pub p: f64,
    /// Most tokens of the reply.
    pub max: usize,
    /// Seed.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> f64 {
    1.0
}

/// The file, before its steps are read one by one: so that an error can say where it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Version of the form: 1.
    #[schemars(extend("const" = 1))]
    v: u32,
    /// What models see, by name.
    #[serde(default)]
    inputs: BTreeMap<String, Input>,
    /// Vectors from the registry, by the id that steps use.
    #[serde(default)]
    vectors: BTreeMap<String, Stored>,
    /// What is done, in order.
    #[schemars(with = "Vec<Step>")]
    steps: Vec<Value>,
    /// Ids of the vectors that are wanted back; texts and tokens always are.
    #[serde(default)]
    out: Vec<String>,
}

fn read<T: serde::de::DeserializeOwned>(value: Value, at: &str) -> Result<T, SpecError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let field = match (at, path.as_str()) {
            ("", ".") => "the spec".to_owned(),
            ("", path) => path.to_owned(),
            (at, ".") => at.to_owned(),
            (at, path) => format!("{at}.{path}"),
        };
        SpecError::new(field, e.into_inner().to_string())
    })
}

impl JsonSchema for Spec {
    fn schema_name() -> Cow<'static, str> {
        "Spec".into()
    }

    /// That of the file as it is read.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        File::json_schema(generator)
    }
}

impl Spec {
    /// Bytes that a spec's file may have.
    pub const MOST_BYTES: usize = 4 << 20;

    /// Whether a TOML text means to be one.
    pub fn is_one(text: &str) -> bool {
        toml::from_str::<toml::Table>(text).is_ok_and(|t| t.contains_key("v") && t.contains_key("steps"))
    }

    /// A spec from JSON or, if it does not begin with a brace, TOML.
    ///
    /// # Errors
    /// With the field's path: what cannot be read, what is unknown, another version.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > Self::MOST_BYTES {
            let what = format!("has {} bytes, more than the {} that are read", text.len(), Self::MOST_BYTES);
            return Err(SpecError::new("the spec", what));
        }
        let unreadable = |what: String| SpecError::new("the spec", what);
        let value: Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| unreadable(format!("is not JSON: {e}")))?
        } else {
            toml::from_str(text).map_err(|e| unreadable(format!("is not TOML: {}", e.message())))?
        };
        Self::from_value(value)
    }

    /// The same from a value.
    ///
    /// # Errors
    /// As [`Spec::parse`].
    pub fn from_value(value: Value) -> Result<Self, SpecError> {
        if let Some(v) = value.get("v").filter(|v| v.as_u64() != Some(1)) {
            return Err(SpecError::new("v", format!("is {v}; version 1 is read")));
        }
        let File { v, inputs, vectors, steps, out } = read(value, "")?;
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(i, step)| Step::from_value(step, &format!("steps[{i}]")))
            .collect::<Result<_, _>>()?;
        Ok(Self { v, inputs, vectors, steps, out })
    }
}

impl Step {
    fn from_value(mut value: Value, at: &str) -> Result<Self, SpecError> {
        let op = value
            .as_object_mut()
            .and_then(|step| step.remove("op"))
            .ok_or_else(|| SpecError::new(at, "is not a step: it has no op"))?;
        Ok(match op.as_str() {
            Some("forward") => Self::Forward(read(value, at)?),
            Some("sub") => Self::Sub(read(value, at)?),
            Some("mean") => Self::Mean(read(value, at)?),
            Some("scale") => Self::Scale(read(value, at)?),
            Some("unembed_topk") => Self::UnembedTopk(read(value, at)?),
            Some("generate") => Self::Generate(read(value, at)?),
            _ => {
                let what = format!(
                    "{op} is no verb of a step; forward, sub, mean, scale, unembed_topk and generate are (collect and inject stand within them)"
                );
                return Err(SpecError::new(format!("{at}.op"), what));
            }
        })
    }

    /// The step's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Forward(s) => &s.id,
            Self::Sub(s) => &s.id,
            Self::Mean(s) => &s.id,
            Self::Scale(s) => &s.id,
            Self::UnembedTopk(s) => &s.id,
            Self::Generate(s) => &s.id,
        }
    }
}
