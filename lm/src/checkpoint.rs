//! A base model's weights in host memory, by their Hugging Face names, whatever file they came from.

use std::collections::BTreeMap;
use std::path::Path;

use crate::adapter::Projection;
use crate::chat::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::{Config, Error, Outline, Precision, Result, gguf, hf};

/// A dense f32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub data: Vec<f32>,
}

/// Plain weights of one model: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, ...,
/// `model.norm.weight`, and `lm_head.weight` unless tied.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Shape of the decoder.
    pub config: Config,
    /// Every tensor by its Hugging Face name, `[out, in]` for projections.
    pub tensors: BTreeMap<String, HostTensor>,
    /// blake3 of the weight files' bytes (in name order), lower-case hex.
    pub digest: String,
}

/// A model as loaded from disk: weights, tokenizer, chat template.
#[derive(Debug)]
pub struct Loaded {
    /// Plain weights.
    pub checkpoint: Checkpoint,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written as one text.
    pub chat: ChatTemplate,
    /// The model's name as its files give it.
    pub name: String,
    /// What a file of its own says of the model beside the weights, which their digest does not see; empty where it is in one file
    /// with them.
    pub(crate) stated: String,
}

impl Loaded {
    pub(crate) fn into_outline(self, precision: Precision) -> Outline {
        let Self { checkpoint: Checkpoint { config, digest, .. }, tokenizer, chat, name, stated } = self;
        Outline::of(config, (tokenizer, chat, name), stated, digest, precision)
    }
}

impl Checkpoint {
    /// Loads a GGUF file or a Hugging Face folder.
    ///
    /// # Errors
    /// One sentence with the path if a file is missing, truncated, of an unknown kind, or does not fit its own
    /// configuration. Pickles are refused.
    pub fn load(path: &Path) -> Result<Loaded> {
        Self::load_with(path, None)
    }

    /// The same under a chat template that takes the place of the model's own.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(path: &Path, template: Option<&str>) -> Result<Loaded> {
        if is_folder(path)? { hf::load(path, template) } else { gguf::load(path, template) }
    }

    /// Checks that exactly the tensors of the configuration are there, in shape and finite.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let c = &self.config;
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        expected.insert("model.embed_tokens.weight".into(), vec![c.vocab_size, c.hidden_size]);
        expected.insert("model.norm.weight".into(), vec![c.hidden_size]);
        if !c.tie_word_embeddings {
            expected.insert("lm_head.weight".into(), vec![c.vocab_size, c.hidden_size]);
        }
        for layer in 0..c.num_hidden_layers {
            for projection in Projection::ALL {
                let (input, output) = projection.features(c);
                expected.insert(format!("{}.weight", projection.module_path(layer)), vec![output, input]);
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                expected.insert(format!("model.layers.{layer}.{norm}.weight"), vec![c.hidden_size]);
            }
        }
        let file = |what: String| Error::File { path: path.to_owned(), what };
        for (name, shape) in &expected {
            let tensor = self.tensors.get(name).ok_or_else(|| file(format!("tensor {name} is missing")))?;
            if &tensor.shape != shape {
                return Err(file(format!(
                    "tensor {name} has shape {:?}, the configuration says {shape:?}",
                    tensor.shape
                )));
            }
            if tensor.data.iter().any(|v| !v.is_finite()) {
                return Err(file(format!("tensor {name} holds a value that is not finite")));
            }
        }
        if let Some(name) =
            self.tensors.keys().find(|n| !expected.contains_key(*n) && !n.ends_with("rotary_emb.inv_freq"))
        {
            return Err(file(format!("tensor {name} belongs to no part of the model")));
        }
        Ok(())
    }
}

/// Whether a model's path is a Hugging Face folder; if not, it is a GGUF file.
pub(crate) fn is_folder(path: &Path) -> Result<bool> {
    let gguf = path.extension().is_some_and(|e| e == "gguf");
    if path.is_dir() || (gguf && path.exists()) {
        return Ok(path.is_dir());
    }
    let what = if path.exists() {
        "is neither a GGUF file (*.gguf) nor a Hugging Face folder"
    } else {
        "does not exist"
    };
    Err(Error::File { path: path.to_owned(), what: what.into() })
}
