//! Text to token ids and back.
//!
//! Control tokens are never made from data: [`Tokenizer::encode`] reads `<|im_end|>` in a user's text as plain text.
//! Only the chat template's own control tokens become control tokens (see [`crate::chat`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ahash::{AHashMap, AHashSet};
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;

use crate::{Error, Result, tokenizer_check};

/// A BPE tokenizer, from `tokenizer.json` or from a GGUF vocabulary.
///
/// Within the library's tokenizer control tokens have names that no text has ([`Tokenizer::name_of`]), in its vocabulary too: data
/// cannot spell one, and what the file says of white space beside them holds where the template writes one.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: BTreeMap<String, u32>,
    /// Tokens that go around a text that is no part of a conversation.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Finds control tokens in a text: leftmost, then longest.
    finder: AhoCorasick,
    /// Their ids, in the finder's order.
    ids: Vec<u32>,
    hidden: HashSet<u32>,
    /// Whether a text's first word gets a space in front.
    spaced: bool,
    /// The first token of the letter a.
    letter: u32,
    /// One more than the largest id that a text can have.
    size: u32,
    digest: String,
}

/// Stands in names that control tokens have within the library's tokenizer.
const HIDDEN: char = '\u{f8f4}';

/// Characters of this crate's own marks: no text may hold them.
const OWN: std::ops::RangeInclusive<char> = '\u{f8f0}'..='\u{f8f5}';

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

/// Whether a merge makes one of these tokens, or takes one as a part. `buffer` is scratch.
fn concerns(merge: &Value, tokens: &AHashSet<&str>, buffer: &mut String) -> bool {
    let (left, right) = match merge {
        Value::String(both) => both.split_once(' ').unwrap_or_default(),
        pair => (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
    };
    buffer.clear();
    buffer.push_str(left);
    buffer.push_str(right);
    [left, right, buffer].into_iter().any(|piece| tokens.contains(piece))
}

/// Gives control tokens the names that no text has: in the vocabulary, and wherever it is spoken of.
fn hide(model: &mut Value, special: &BTreeMap<String, u32>) {
    let mut renamed = AHashSet::new();
    if let Some(vocab) = model["vocab"].as_object_mut() {
        for (text, id) in special {
            if vocab.get(text).and_then(Value::as_u64) == Some(u64::from(*id)) {
                vocab.remove(text);
                vocab.insert(Tokenizer::name_of(*id), (*id).into());
                renamed.insert(text.as_str());
            }
        }
    }
    if let Some(unknown) = model["unk_token"].as_str().filter(|t| renamed.contains(t)) {
        model["unk_token"] = Tokenizer::name_of(special[unknown]).into();
    }
    // No text is merged into one.
    if let Some(merges) = model["merges"].as_array_mut().filter(|_| !renamed.is_empty()) {
        let mut buffer = String::new();
        merges.retain(|merge| !concerns(merge, &renamed, &mut buffer));
    }
}

/// The library's tokenizer of these parts, without added tokens. A vocabulary of hundreds of thousands is not written as text again.
fn built(mut json: Value) -> Result<tokenizers::Tokenizer, String> {
    let mut model = None;
    if let Some(bpe) = json["model"].as_object_mut().filter(|m| m.contains_key("merges")) {
        model = Some(merging(std::mem::take(bpe))?);
        json["model"] = json!({"type": "BPE", "vocab": {}, "merges": []});
    }
    let mut inner = tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(|e| e.to_string())?;
    if let Some(model) = model {
        inner.with_model(model);
    }
    Ok(inner)
}

/// The model that merges the pairs of its list.
fn merging(mut model: Map<String, Value>) -> Result<BPE, String> {
    let Some(Value::Object(pieces)) = model.remove("vocab") else { return Err("model has no vocab".into()) };
    let mut vocab = AHashMap::with_capacity(pieces.len());
    for (piece, id) in pieces {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        vocab.insert(piece, number.ok_or_else(|| format!("model: vocab holds the id {id}"))?);
    }
    let Some(Value::Array(list)) = model.remove("merges") else {
        return Err("model: merges is not a list".into());
    };
    let pair = |merge: Value| match merge {
        Value::String(both) => both.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())),
        Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
            Ok([Value::String(left), Value::String(right)]) => Some((left, right)),
            _ => None,
        },
        _ => None,
    };
    // As older files have it: their first line tells a version.
    let version = |merge: &Value| merge.as_str().is_some_and(|m| m.starts_with("#version"));
    let mut merges = Vec::with_capacity(list.len());
    for merge in list.into_iter().filter(|m| !version(m)) {
        merges.push(pair(merge).ok_or("model: merges holds something that is not a pair")?);
    }
    if model.get("dropout").is_some_and(|d| !d.is_null() && d.as_f64() != Some(0.0)) {
        return Err("model: dropout is not implemented".into());
    }
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges);
    let mut text = |key: &str| match model.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("model: {key} is not a text")),
    };
    if let Some(token) = text("unk_token")? {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = text("continuing_subword_prefix")? {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = text("end_of_word_suffix")? {
        builder = builder.end_of_word_suffix(suffix);
    }
    let truth = |key: &str| match model.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(_) => Err(format!("model: {key} is neither true nor false")),
    };
    builder
        .fuse_unk(truth("fuse_unk")?)
        .byte_fallback(truth("byte_fallback")?)
        .ignore_merges(truth("ignore_merges")?)
        .build()
        .map_err(|e| format!("model: {e}"))
}

impl Tokenizer {
    /// Builds a tokenizer from the contents of a `tokenizer.json`.
    pub(crate) fn from_json(mut json: Value) -> Result<Self, String> {
        tokenizer_check::check(&json)?;
        let mut hasher = std::io::BufWriter::with_capacity(1 << 16, blake3::Hasher::new());
        serde_json::to_writer(&mut hasher, &json).map_err(|e| e.to_string())?;
        let hasher = hasher.into_inner().map_err(|e| e.to_string())?;
        let digest = hasher.finalize().to_hex().to_string();
        let pieces = json["model"]["vocab"].as_object();
        let pieces: Vec<u32> =
            pieces.into_iter().flat_map(Map::values).filter_map(|id| id.as_u64()?.try_into().ok()).collect();
        let (mut special, mut added, mut names) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for mut token in json["added_tokens"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            let (Some(text), Some(id)) = (token["content"].as_str().map(str::to_owned), token["id"].as_u64())
            else {
                return Err("an entry of added_tokens has no content or no id".into());
            };
            let id = u32::try_from(id).map_err(|_| format!("added token {text:?} has the id {id}"))?;
            if text.is_empty() {
                return Err(format!("added token {id} is empty"));
            }
            if !seen.insert(text.clone()) {
                return Err(format!("added token {text:?} is there twice"));
            }
            // One that is not special is a word like any other, that is one token wherever it stands.
            if token["special"] != false {
                token["content"] = Self::name_of(id).into();
                // The template's control tokens are found as they are written.
                token["normalized"] = false.into();
                special.insert(text.clone(), id);
            }
            let token: AddedToken =
                serde_json::from_value(token).map_err(|e| format!("added token {text:?}: {e}"))?;
            names.push((text, token.content.clone(), id));
            added.push(token);
        }
        let (before, after) = around(&json["post_processor"])?;
        hide(&mut json["model"], &special);
        for part in ["post_processor", "truncation", "padding"] {
            json[part] = Value::Null;
        }
        let mut inner = built(json)?;
        inner.add_tokens(added).map_err(|e| format!("added_tokens: {e}"))?;
        for (text, name, id) in &names {
            let found = inner.token_to_id(name);
            if found != Some(*id) {
                return Err(format!(
                    "added token {text:?} has the id {id}, and its place in the file gives it {}",
                    found.map_or_else(|| "none".to_owned(), |id| id.to_string())
                ));
            }
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.keys())
            .map_err(|e| format!("added_tokens: {e}"))?;
        let ids: Vec<u32> = special.values().copied().collect();
        let hidden: HashSet<u32> = ids.iter().copied().collect();
        let letter = inner.encode("a", false).ok().and_then(|e| e.get_ids().first().copied());
        let letter = letter.ok_or("makes no token of the letter a")?;
        let spaced = inner.id_to_token(letter).is_some_and(|t| t.starts_with('\u{2581}'));
        let largest = pieces.into_iter().chain(names.iter().map(|(_, _, id)| *id));
        let size = largest.filter(|id| !hidden.contains(id)).max().map_or(0, |id| id.saturating_add(1));
        Ok(Self { inner, special, before, after, finder, ids, hidden, spaced, letter, size, digest })
    }

    /// The name of a control token in texts for [`Tokenizer::encode_named`].
    pub(crate) fn name_of(id: u32) -> String {
        format!("{HIDDEN}{id}{HIDDEN}")
    }

    /// A text with its control tokens under those names.
    pub(crate) fn named(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((start, end, id)) = self.first_special(rest) {
            out.push_str(&rest[..start]);
            out.push_str(&Self::name_of(id));
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }

    /// Refuses a text that holds characters of this crate's own marks.
    pub(crate) fn check(text: &str) -> Result<()> {
        match text.chars().find(|c| OWN.contains(c)) {
            Some(c) => Err(Error::Request(format!("a text holds the character {c:?}, which is not read"))),
            None => Ok(()),
        }
    }

    /// Tokens of a text by itself: with those that the model has seen around texts (`post_processor`), most often a first one.
    pub fn encode_alone(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.before[..], &self.encode(text)?, &self.after].concat())
    }

    /// The texts of the tokens that [`Tokenizer::encode_alone`] puts first.
    pub(crate) fn texts_before(&self) -> Vec<&str> {
        let text = |id: &u32| self.special.iter().find(|(_, i)| *i == id).map(|(t, _)| t.as_str());
        self.before.iter().filter_map(text).collect()
    }

    /// Tokens of ordinary text; control tokens spelled in it stay text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Self::check(text)?;
        self.encode_named(text)
    }

    /// Tokens of a text whose control tokens stand under their names.
    pub(crate) fn encode_named(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| {
            let start: String = text.chars().take(60).collect();
            Error::Request(format!("cannot tokenise {start:?}: {e}"))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of the tokens, control tokens left out. A model may say anything, this crate's own marks too: they are replaced by U+FFFD,
    /// so that what was said can be encoded again.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !self.hidden.contains(id)).collect();
        let said = self.inner.decode(&ids, false);
        let said = said.map_err(|e| Error::Request(format!("cannot decode tokens: {e}")))?;
        let own = |c: char| OWN.contains(&c);
        Ok(if said.contains(own) { said.replace(own, "\u{fffd}") } else { said })
    }

    /// The text that a token adds behind another: at the beginning of a text some vocabularies drop a word's space.
    pub fn text_within(&self, id: u32) -> Result<String> {
        let both = self.decode(&[self.letter, id])?;
        let before = self.decode(&[self.letter])?;
        Ok(both.strip_prefix(&before).unwrap_or(&both).to_owned())
    }

    /// Id of a control token, or of a piece of the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.special.get(token).copied().or_else(|| self.inner.token_to_id(token))
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

    /// Whether a text's first word gets a space in front, so that a text is not the same tokens inside another.
    pub(crate) fn spaced(&self) -> bool {
        self.spaced
    }

    /// One more than the largest id that a text can have; control tokens, which only a template writes, are not counted.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// blake3 of the tokenizer's definition.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
