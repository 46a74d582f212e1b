//! A GGUF file's vocabulary as a `tokenizer.json`.

use ahash::AHashSet;
use candle_core::quantized::gguf_file::Value;
use serde_json::{Map, Value as Json, json};

use super::metadata::Metadata;
use crate::Result;
use crate::architecture::bad;
use crate::chat::{ChatTemplate, Source, Words};
use crate::tokenizer::Tokenizer;

/// Kinds of tokens, by llama.cpp's numbers (`enum llama_token_type`).
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// The key that names how a byte-level vocabulary cuts texts.
const PRE: &str = "tokenizer.ggml.pre";

/// What stands for a space in vocabularies of SentencePiece.
const SPACE: char = '\u{2581}';

/// How a byte-level vocabulary cuts a text before it merges, as llama.cpp names it (`llama-vocab.cpp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// GPT-2's expression.
    Gpt2,
    /// The same, and every digit by itself.
    Digits,
    /// Llama 3's; SmolLM3 and OLMo 2 have it too.
    Llama3,
    Qwen2,
    Tekken,
}

/// Expressions of the published `tokenizer.json` files.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Cut {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "default" | "gpt-2" => Self::Gpt2,
            "smollm" => Self::Digits,
            "llama-bpe" | "llama3" | "llama-v3" | "dbrx" | "smaug-bpe" => Self::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Self::Qwen2,
            "tekken" => Self::Tekken,
            _ => return None,
        })
    }

    fn pre_tokenizer(self) -> Json {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let split = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]})
        };
        match self {
            Self::Gpt2 => byte_level(),
            Self::Digits => json!({"type": "Sequence", "pretokenizers": [digits, byte_level()]}),
            Self::Llama3 => split(LLAMA3),
            Self::Qwen2 => split(QWEN2),
            Self::Tekken => split(TEKKEN),
        }
    }
}

fn byte_level() -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
}

/// The kind of each token; a file without kinds has none but pieces of text.
fn kinds(meta: &Metadata<'_>, tokens: usize) -> Result<Vec<i64>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if !meta.values.contains_key(KEY) {
        return Ok(Vec::new());
    }
    let kind = |v: &Value| v.to_i32().map(i64::from).or_else(|_| v.to_u32().map(i64::from)).ok();
    list(meta, KEY, tokens, "a kind", kind)
}

/// One value for each token.
fn list<T>(
    meta: &Metadata<'_>,
    key: &str,
    tokens: usize,
    what: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>> {
    let refuse = |what: String| bad(meta.path, format!("metadata key {key} {what}"));
    let values = meta.get(key)?.to_vec().map_err(|_| refuse("is not a list".into()))?;
    if values.len() != tokens {
        return Err(refuse(format!("has {} entries for {tokens} tokens", values.len())));
    }
    values
        .iter()
        .map(|v| read(v).ok_or_else(|| refuse(format!("holds something that is not {what}"))))
        .collect()
}

/// The named tokens that templates may use.
pub(super) fn words(meta: &Metadata<'_>) -> Result<Words> {
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let named =
        [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
    let mut out = Words::new();
    for (name, key) in named {
        if let Some(id) = named_id(meta, key, tokens.len())? {
            out.insert(name.to_owned(), tokens[id].to_owned());
        }
    }
    Ok(out)
}

/// The id of a named token, where the file names it.
fn named_id(meta: &Metadata<'_>, name: &str, tokens: usize) -> Result<Option<usize>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = meta.or(&key, |m, k| m.number(k).map(Some), None)? else { return Ok(None) };
    if id >= tokens {
        return Err(bad(meta.path, format!("metadata key {key} = {id} is no token")));
    }
    Ok(Some(id))
}

/// A metadata key's truth value, or `otherwise` where it is not there.
fn truth(meta: &Metadata<'_>, key: &str, otherwise: bool) -> Result<bool> {
    let refuse = |_| bad(meta.path, format!("metadata key {key} is not a truth value"));
    if meta.values.contains_key(key) { meta.get(key)?.to_bool().map_err(refuse) } else { Ok(otherwise) }
}

/// The file's own chat template; base models have none.
pub(super) fn own_template(meta: &Metadata<'_>) -> Result<Option<String>> {
    meta.or("tokenizer.chat_template", |m, k| m.string(k).map(|t| Some(t.to_owned())), None)
}

/// The file's tokenizer and chat template; `given` takes the place of its own.
pub(super) fn language(meta: &Metadata<'_>, given: Option<&str>) -> Result<(Tokenizer, ChatTemplate)> {
    let tokenizer = tokenizer(meta)?;
    let source = Source::choose(given, own_template(meta)?, &tokenizer);
    let chat =
        ChatTemplate::new(source, words(meta)?, &tokenizer).map_err(|e| bad(meta.path, e.to_string()))?;
    Ok((tokenizer, chat))
}

fn tokenizer(meta: &Metadata<'_>) -> Result<Tokenizer> {
    Tokenizer::from_json(tokenizer_json(meta)?).map_err(|what| bad(meta.path, format!("tokenizer: {what}")))
}

/// The tokenizer as the contents of a `tokenizer.json`.
pub(super) fn tokenizer_json(meta: &Metadata<'_>) -> Result<Json> {
    let kind = meta.string("tokenizer.ggml.model")?;
    if kind == "gpt2" && !meta.values.contains_key(PRE) {
        // Files of many models lack it that were made before it was invented, and each cuts texts in its own way.
        return Err(bad(
            meta.path,
            format!(
                "has no metadata key {PRE}, so nobody knows how it cuts texts; use a newer file, or the model's Hugging Face folder"
            ),
        ));
    }
    let pre = meta.or(PRE, |m, k| m.string(k).map(str::to_owned), "default".to_owned())?;
    match (kind, Cut::named(&pre)) {
        ("gpt2", Some(cut)) => byte_level_json(meta, cut, &pre),
        ("llama", _) => pieces_json(meta),
        _ => Err(bad(
            meta.path,
            format!(
                "uses the tokenizer {kind}/{pre}, which is not implemented; use the model's Hugging Face folder"
            ),
        )),
    }
}

/// Tokens that are one wherever they stand.
fn added(tokens: &[&str], kinds: &[i64], whole: impl Fn(&str, i64) -> bool) -> Vec<Json> {
    kinds
        .iter()
        .enumerate()
        .filter(|(i, kind)| whole(tokens[*i], **kind))
        .map(|(i, kind)| {
            json!({"id": i, "content": tokens[i], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind != USER_DEFINED})
        })
        .collect()
}

/// What goes before a text that is no part of a conversation: the file's first token, if it says so.
fn post_processor(meta: &Metadata<'_>, tokens: &[&str], otherwise: bool) -> Result<Json> {
    let bos = named_id(meta, "bos", tokens.len())?;
    let (true, Some(bos)) = (truth(meta, "tokenizer.ggml.add_bos_token", otherwise)?, bos) else {
        return Ok(Json::Null);
    };
    let name = tokens[bos];
    Ok(json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}}}))
}

fn vocabulary(tokens: &[&str]) -> Map<String, Json> {
    tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), i.into())).collect()
}

/// Byte-level BPE: the file's own merges.
fn byte_level_json(meta: &Metadata<'_>, cut: Cut, pre: &str) -> Result<Json> {
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let merges = meta.strings("tokenizer.ggml.merges")?;
    let kinds = kinds(meta, tokens.len())?;
    let whole = |_: &str, kind| [CONTROL, USER_DEFINED].contains(&kind);
    // As llama.cpp has it: these take a word that is in the vocabulary as it is, and begin a text with the first token.
    let takes_words = cut == Cut::Tekken || (cut == Cut::Llama3 && !["dbrx", "smaug-bpe"].contains(&pre));
    let normalizer = if cut == Cut::Qwen2 { json!({"type": "NFC"}) } else { Json::Null };
    let mut model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary(&tokens), "merges": merges});
    if takes_words {
        model["ignore_merges"] = true.into();
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(&tokens, &kinds, whole), "normalizer": normalizer,
        "pre_tokenizer": cut.pre_tokenizer(), "post_processor": post_processor(meta, &tokens, takes_words)?, "decoder": byte_level(),
        "model": model,
    }))
}

/// Most letters of a piece that is put together from others, and most pairs that are looked at in all: many times those of the
/// largest known vocabulary.
const LONGEST_PIECE: usize = 512;
const MOST_PAIRS: usize = 50_000_000;
/// Most merges: ten times those of the largest known vocabulary.
const MOST_MERGES: usize = 6_000_000;

/// SentencePiece's BPE: of two pieces beside each other, those merge first whose whole has the highest score.
fn pieces_json(meta: &Metadata<'_>) -> Result<Json> {
    let stored = meta.strings("tokenizer.ggml.tokens")?;
    let kinds = kinds(meta, stored.len())?;
    let scores = list(meta, "tokenizer.ggml.scores", stored.len(), "a number", |v| v.to_f32().ok())?;
    // Runs of spaces are pieces of text, which has none when it is cut.
    let of_spaces = |token: &str| !token.is_empty() && token.bytes().all(|b| b == b' ');
    let respelled: Vec<String> = stored
        .iter()
        .map(|t| if of_spaces(t) { t.replace(' ', "\u{2581}") } else { (*t).to_owned() })
        .collect();
    let tokens: Vec<&str> = respelled.iter().map(String::as_str).collect();
    let merges = merges(&tokens, &kinds, &scores).map_err(|what| bad(meta.path, what))?;
    let whole = |token: &str, kind| {
        [CONTROL, UNKNOWN].contains(&kind) || (kind == USER_DEFINED && !token.chars().all(|c| c == SPACE))
    };
    let unknown = named_id(meta, "unknown", tokens.len())?
        .or_else(|| kinds.iter().position(|k| *k == UNKNOWN))
        .map(|id| tokens[id]);
    let space = json!({"String": " "});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let (normalizer, pre_tokenizer) = if truth(meta, "tokenizer.ggml.add_space_prefix", true)? {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let scheme = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
        (Json::Null, scheme)
    } else {
        (json!({"type": "Replace", "pattern": space, "content": "\u{2581}"}), Json::Null)
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added(&tokens, &kinds, whole), "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor(meta, &tokens, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": true, "byte_fallback": true, "vocab": vocabulary(&tokens), "merges": merges},
    }))
}

/// The merges that the scores of pieces say, best first: all pairs of pieces that make a piece. Control tokens, bytes and the unknown
/// token are no pieces of a text. What a user defined comes first, as SentencePiece has it.
fn merges(tokens: &[&str], kinds: &[i64], scores: &[f32]) -> Result<Vec<Json>, String> {
    let is_piece =
        |i: usize| kinds.get(i).is_none_or(|kind| ![UNKNOWN, CONTROL, UNUSED, BYTE].contains(kind));
    let pieces: AHashSet<&str> =
        tokens.iter().enumerate().filter(|(i, _)| is_piece(*i)).map(|(_, t)| *t).collect();
    let user_defined = |i: usize| kinds.get(i) == Some(&USER_DEFINED);
    let (mut found, mut looked) = (Vec::new(), 0);
    for (id, token) in tokens.iter().enumerate().filter(|(i, _)| is_piece(*i)) {
        let letters = token.chars().count();
        looked += letters;
        if letters > LONGEST_PIECE || looked > MOST_PAIRS {
            let start: String = token.chars().take(40).collect();
            return Err(format!(
                "tokenizer.ggml.tokens: {start:?} has {letters} letters, or all have too many"
            ));
        }
        for (n, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if pieces.contains(left) && pieces.contains(right) {
                found.push((id, n, left, right));
            }
            if found.len() > MOST_MERGES {
                return Err(format!(
                    "tokenizer.ggml.tokens: its pieces merge in more than {MOST_MERGES} ways"
                ));
            }
        }
    }
    let rank = |id: usize| (!user_defined(id), if user_defined(id) { 0.0 } else { -scores[id] });
    found.sort_by(|a, b| {
        let ((a_late, a_score), (b_late, b_score)) = (rank(a.0), rank(b.0));
        a_late.cmp(&b_late).then(a_score.total_cmp(&b_score)).then(a.0.cmp(&b.0)).then(b.1.cmp(&a.1))
    });
    Ok(found.into_iter().map(|(_, _, left, right)| json!([left, right])).collect())
}
