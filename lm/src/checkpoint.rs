//! A base model's weights, whatever file they come from: opened and checked here, read where they are packed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::architecture::{Slot, Tensor, bad};
use crate::chat::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Memory, Merged, Source};
use crate::{Adapter, Architecture, Error, Outline, Precision, Result, gguf, hf};

/// A dense f32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub data: Vec<f32>,
}

/// A model's description and where its tensors are read from. Cloning one copies no weight.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What the decoder is.
    pub architecture: Architecture,
    /// blake3 of the weight files' bytes (in name order), lower-case hex.
    pub digest: String,
    source: Arc<dyn Source>,
}

/// A model as found on disk: weights, tokenizer, chat template.
#[derive(Debug)]
pub struct Loaded {
    /// Weights, read when they are packed.
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
        let Self { checkpoint: Checkpoint { architecture, digest, .. }, tokenizer, chat, name, stated } =
            self;
        Outline::of(architecture, (tokenizer, chat, name), stated, digest, precision)
    }
}

impl Checkpoint {
    /// Opens a GGUF file or a Hugging Face folder.
    ///
    /// # Errors
    /// One sentence with the path if a file is missing, truncated, of an unknown kind, or does not fit its own
    /// configuration. Pickles are refused. What only the weights' values show is found where they are read.
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

    /// A source whose tensors are exactly those of the description.
    pub(crate) fn new(architecture: Architecture, source: Arc<dyn Source>, digest: String) -> Result<Self> {
        weights::check(&*source, &architecture)?;
        Ok(Self { architecture, digest, source })
    }

    /// Weights in memory, by their Hugging Face names.
    ///
    /// # Errors
    /// If a tensor is missing, left over or of another shape than the description says.
    pub fn from_tensors(
        architecture: Architecture,
        tensors: BTreeMap<String, HostTensor>,
        digest: &str,
    ) -> Result<Self> {
        if let Some((name, _)) =
            tensors.iter().find(|(_, t)| t.data.len() != t.shape.iter().product::<usize>())
        {
            return Err(Error::Tensor {
                name: name.clone(),
                what: "holds another number of values than its shape".into(),
            });
        }
        Self::new(architecture, Arc::new(Memory(tensors)), digest.to_owned())
    }

    /// The same with adapters merged in. The digest of the result is empty: it is no file's.
    pub(crate) fn merged(&self, adapters: Vec<Adapter>) -> Self {
        let source = Arc::new(Merged { base: Arc::clone(&self.source), adapters });
        Self { architecture: self.architecture.clone(), digest: String::new(), source }
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// A tensor by its Hugging Face name, as Hugging Face files hold it, in f32.
    ///
    /// # Errors
    /// If there is none of that name, it cannot be read, or it holds a value that is not finite.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let tensors = self.architecture.tensors();
        let tensor = tensors
            .iter()
            .find(|t| t.name == name)
            .ok_or_else(|| Error::Tensor { name: name.to_owned(), what: "is no part of the model".into() })?;
        Ok(HostTensor { shape: tensor.shape.clone(), data: self.as_stored(tensor)? })
    }

    /// Names of all tensors, in Hugging Face files.
    pub fn tensor_names(&self) -> Vec<String> {
        self.architecture.tensors().into_iter().map(|t| t.name).collect()
    }

    pub(crate) fn as_stored(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut data = self.source.rows(tensor, 0..tensor.rows().0)?;
        if tensor.less_one {
            for v in &mut data {
                *v -= 1.0;
            }
        }
        Ok(data)
    }

    /// The tables' entries by place.
    pub(crate) fn places(&self) -> Places {
        Places(self.architecture.tensors())
    }
}

/// The table of a model's tensors, looked up by place.
pub(crate) struct Places(Vec<Tensor>);

impl Places {
    pub(crate) fn get(&self, slot: Slot) -> Option<&Tensor> {
        self.0.iter().find(|t| t.slot == slot)
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
    Err(bad(path, what))
}
