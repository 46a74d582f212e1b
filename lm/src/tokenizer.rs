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
    /// Those of them that take white space beside them along.
    spaced: Vec<String>,
    /// Tokens that go around a text that is no part of a conversation.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Finds them in a text: leftmost, then longest.
    finder: AhoCorasick,
    /// Their ids, in the finder's order.
    ids: Vec<u32>,
    hidden: HashSet<u32>,
    digest: String,
}

/// Stands in names that control tokens have within the library's tokenizer.
const HIDDEN: char = '\u{f8f4}';

/// The tokens that a post-processor puts before and after a text.
fn around(post: &Value) -> Result<(Vec<u32>, Vec<u32>), String> {
    match post["type"].as_str() {
        None | Some("ByteLevel") => Ok(Default::default()),
        Some("Sequence") => {
            let parts = post["processors"].as_array().map_or(&[][..], Vec::as_slice);
            let found = parts.iter().take(16).map(around).collect::<Result<Vec<_>, _>>()?;
            Ok(found.into_iter().find(|(b, a)| !(b.is_empty() && a.is_empty())).unwrap_or_default())
        }
        Some("TemplateProcessing") => {
            let single =
                post["single"].as_array().ok_or("post_processor has no template of a single text")?;
            let (mut sides, mut seen) = ([Vec::new(), Vec::new()], 0);
            for piece in single {
                if piece["Sequence"].is_object() {
                    seen += 1;
                    continue;
                }
                let name = piece["SpecialToken"]["id"].as_str().unwrap_or_default();
                let ids = post["special_tokens"][name]["ids"].as_array();
                let ids = ids.and_then(|ids| {
                    ids.iter().map(|i| i.as_u64().map(|i| i as u32)).collect::<Option<Vec<_>>>()
                });
                sides[seen.min(1)]
                    .extend(ids.ok_or_else(|| format!("post_processor: token {name:?} has no ids"))?);
            }
            if seen != 1 || sides.iter().any(|s| s.len() > 16) {
                return Err(
                    "post_processor is not implemented: it does not put a few tokens around one text".into(),
                );
            }
            let [before, after] = sides;
            Ok((before, after))
        }
        Some(other) => {
            Err(format!("post_processor {:?} is not implemented", other.chars().take(40).collect::<String>()))
        }
    }
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        tokenizer_check::check(json)?;
        let digest = blake3::hash(json.to_string().as_bytes()).to_hex().to_string();
        let mut special = BTreeMap::new();
        let mut spaced = Vec::new();
        let mut added = Vec::new();
        for token in json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice) {
            let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else {
                return Err("an entry of added_tokens has no content or no id".into());
            };
            let id = u32::try_from(id).map_err(|_| format!("added token {text:?} has the id {id}"))?;
            if text.is_empty() {
                return Err(format!("added token {id} is empty"));
            }
            let mut token = token.clone();
            if token["special"] == false {
                // A word like any other, that is one token wherever it stands.
                added.push(token);
                continue;
            }
            special.insert(text.to_owned(), id);
            if token["lstrip"] == true || token["rstrip"] == true {
                spaced.push(text.to_owned());
            }
            // One of the vocabulary has its id there; of others the words after them count the id.
            if json["model"]["vocab"][text].as_u64() == Some(u64::from(id)) {
                continue;
            }
            token["content"] = format!("{HIDDEN}{id}{HIDDEN}").into();
            added.push(token);
        }
        let mut plain = json.clone();
        // Control tokens are in it, under names that no text has, where words follow them that need their ids.
        if added.iter().all(|t| t["special"] != false) {
            added.clear();
        }
        plain["added_tokens"] = Value::Array(added);
        plain["post_processor"] = Value::Null;
        plain["truncation"] = Value::Null;
        plain["padding"] = Value::Null;
        let plain = tokenizers::Tokenizer::from_bytes(plain.to_string()).map_err(|e| e.to_string())?;
        let (before, after) = around(&json["post_processor"])?;
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.keys())
            .map_err(|e| format!("added_tokens: {e}"))?;
        let ids: Vec<u32> = special.values().copied().collect();
        let hidden = ids.iter().copied().collect();
        if plain.encode("a", false).map_or(true, |e| e.get_ids().is_empty()) {
            return Err("makes no token of the letter a".into());
        }
        Ok(Self { plain, special, spaced, before, after, finder, ids, hidden, digest })
    }

    /// Tokens of a text by itself: with those that the model has seen around texts (`post_processor`), most often a first one.
    pub fn encode_alone(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.before[..], &self.encode(text)?, &self.after].concat())
    }

    /// Control tokens that take white space beside them along.
    pub(crate) fn spaced(&self) -> impl Iterator<Item = &str> {
        self.spaced.iter().map(String::as_str)
    }

    /// Tokens of ordinary text; control tokens spelled in it stay text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.contains(HIDDEN) {
            return Err(Error::Request(format!("a text holds the character {HIDDEN:?}, which is not read")));
        }
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
