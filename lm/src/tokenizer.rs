//! Text to token ids and back.
//!
//! Control tokens are never made from data: [`Tokenizer::encode`] reads `<|im_end|>` in a user's text as plain text.
//! Only the chat template's own control tokens become control tokens (see [`crate::chat`]).

use std::collections::{BTreeMap, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::{Error, Result, tokenizer_check};

/// A byte-level BPE tokenizer, from `tokenizer.json` or from a GGUF vocabulary.
#[derive(Debug)]
pub struct Tokenizer {
    /// Without added tokens, so that data cannot spell one.
    plain: tokenizers::Tokenizer,
    special: BTreeMap<String, u32>,
    /// Finds them in a text: leftmost, then longest.
    finder: AhoCorasick,
    /// Their ids, in the finder's order.
    ids: Vec<u32>,
    hidden: HashSet<u32>,
    digest: String,
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        tokenizer_check::check(json)?;
        let digest = blake3::hash(json.to_string().as_bytes()).to_hex().to_string();
        let mut special = BTreeMap::new();
        for token in json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice) {
            let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else {
                return Err("an entry of added_tokens has no content or no id".into());
            };
            let id = u32::try_from(id).map_err(|_| format!("added token {text:?} has the id {id}"))?;
            if text.is_empty() {
                return Err(format!("added token {id} is empty"));
            }
            special.insert(text.to_owned(), id);
        }
        let mut plain = json.clone();
        plain["added_tokens"] = Value::Array(Vec::new());
        plain["post_processor"] = Value::Null;
        plain["truncation"] = Value::Null;
        plain["padding"] = Value::Null;
        let plain = tokenizers::Tokenizer::from_bytes(plain.to_string()).map_err(|e| e.to_string())?;
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.keys())
            .map_err(|e| format!("added_tokens: {e}"))?;
        let ids: Vec<u32> = special.values().copied().collect();
        let hidden = ids.iter().copied().collect();
        Ok(Self { plain, special, finder, ids, hidden, digest })
    }

    /// Tokens of ordinary text; control tokens spelled in it stay text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.plain.encode(text, false).map_err(|e| {
            let start: String = text.chars().take(60).collect();
            Error::Request(format!("cannot tokenise {start:?}: {e}"))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of the tokens, control tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !self.hidden.contains(id)).collect();
        self.plain.decode(&ids, false).map_err(|e| Error::Request(format!("cannot decode tokens: {e}")))
    }

    /// Id of a control token, or of a piece of the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.special.get(token).copied().or_else(|| self.plain.token_to_id(token))
    }

    /// Control tokens by their text.
    pub fn special_tokens(&self) -> &BTreeMap<String, u32> {
        &self.special
    }

    /// The first control token in a text: where it begins, where it ends, its id.
    pub(crate) fn first_special(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.finder.find(text)?;
        Some((found.start(), found.end(), self.ids[found.pattern().as_usize()]))
    }

    /// blake3 of the tokenizer's definition.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
