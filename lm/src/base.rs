//! A base model ready for work: decoder, tokenizer, chat template, and the pinned system prompt.

use std::path::Path;

use crate::{ChatTemplate, Checkpoint, Config, Decoder, Loaded, Precision, Result, Tokenizer};

/// The system prompt of every conversation, for weight diffs and readers alike. Given, so that no template inserts its
/// own, and empty, so that it costs few tokens.
pub const SYSTEM_PROMPT: &str = "";

/// Everything needed to talk to a base model.
#[derive(Debug)]
pub struct BaseModel {
    /// The frozen decoder.
    pub decoder: Decoder,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to tokens.
    pub chat: ChatTemplate,
    /// Name as its files give it.
    pub name: String,
}

impl BaseModel {
    /// Loads a GGUF file or a Hugging Face folder.
    pub fn load(path: &Path, precision: Precision) -> Result<Self> {
        let loaded = Checkpoint::load(path)?;
        let decoder = Decoder::new(&loaded.checkpoint, precision)?;
        Ok(Self { decoder, tokenizer: loaded.tokenizer, chat: loaded.chat, name: loaded.name })
    }

    /// The decoder's shape.
    pub fn config(&self) -> &Config {
        self.decoder.config()
    }

    /// Tokens of a user turn up to the opening of the reply.
    pub fn prompt(&self, user: &str) -> Result<Vec<u32>> {
        self.chat.encode_prompt(&self.tokenizer, SYSTEM_PROMPT, user)
    }

    /// Tokens of a whole reply with its end of turn.
    pub fn reply(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text)?;
        tokens.push(self.chat.end_of_turn());
        Ok(tokens)
    }

    /// One digest of everything that decides this model's outputs: weights, tokenizer, template, system prompt,
    /// precision.
    pub fn digest(&self) -> String {
        digest(self.decoder.digest(), &self.tokenizer, &self.chat, self.decoder.precision())
    }
}

impl Loaded {
    /// [`BaseModel::digest`] of the model that these files make at a precision.
    pub fn base_digest(&self, precision: Precision) -> String {
        digest(&self.checkpoint.digest, &self.tokenizer, &self.chat, precision)
    }
}

fn digest(weights: &str, tokenizer: &Tokenizer, chat: &ChatTemplate, precision: Precision) -> String {
    let mut hasher = blake3::Hasher::new();
    let precision = format!("{precision:?}");
    for part in [weights, tokenizer.digest(), chat.digest(), SYSTEM_PROMPT, &precision] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
