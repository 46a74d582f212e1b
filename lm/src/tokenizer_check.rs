//! What a `tokenizer.json` may ask for: the parts that models of text use, within sizes that keep a text's tokens in proportion to
//! it. The rest is refused by its name.

use serde_json::Value;

/// Parts of a sequence, and sequences within each other.
const MOST_PARTS: usize = 64;
const DEEPEST: usize = 4;
/// By how much all normalizers together may lengthen a text.
const MOST_GROWTH: usize = 64;
/// Longest pattern of a part, bytes.
const LONGEST_PATTERN: usize = 4096;
/// Most added tokens: several times the largest known vocabulary's.
const MOST_ADDED: usize = 20_000;

const NORMALIZERS: [&str; 11] = [
    "BertNormalizer",
    "ByteLevel",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Prepend",
    "Replace",
    "Strip",
];
const PRE_TOKENIZERS: [&str; 9] = [
    "BertPreTokenizer",
    "ByteLevel",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
];
const DECODERS: [&str; 7] =
    ["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"];
const MODELS: [&str; 2] = ["BPE", "WordPiece"];

fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or("")
}

fn refused(what: &str, part: &Value) -> String {
    let name: String = kind(part).chars().take(40).collect();
    format!("{what} {name:?} is not implemented")
}

/// Calls `look` with every part of a sequence, however deep.
fn parts<'a>(
    what: &str,
    list: &str,
    part: &'a Value,
    depth: usize,
    look: &mut dyn FnMut(&'a Value) -> Result<(), String>,
) -> Result<(), String> {
    if part.is_null() {
        return Ok(());
    }
    if kind(part) != "Sequence" {
        return look(part);
    }
    let Some(items) = part[list].as_array().filter(|i| i.len() <= MOST_PARTS && depth < DEEPEST) else {
        return Err(format!(
            "{what}: a sequence has no {list}, more than {MOST_PARTS}, or is nested too deeply"
        ));
    };
    items.iter().try_for_each(|item| parts(what, list, item, depth + 1, look))
}

/// The pattern of a part that has one, and its length; 1 for a class of characters.
fn pattern(what: &str, part: &Value) -> Result<usize, String> {
    let pattern = &part["pattern"];
    let text = pattern["String"].as_str().or_else(|| pattern["Regex"].as_str()).unwrap_or_default();
    if text.len() > LONGEST_PATTERN {
        return Err(format!("{what} {:?} has a pattern of {} bytes", kind(part), text.len()));
    }
    // An empty text would match between all letters.
    if text.is_empty() {
        return Err(format!("{what} {:?} has no pattern", kind(part)));
    }
    Ok(pattern["String"].as_str().map_or(1, str::len))
}

pub(crate) fn check(json: &Value) -> Result<(), String> {
    if !json.is_object() {
        return Err("is no object".into());
    }
    let mut growth = 1usize;
    parts("normalizer", "normalizers", &json["normalizer"], 0, &mut |part| {
        if !NORMALIZERS.contains(&kind(part)) && kind(part) != "StripAccents" {
            return Err(refused("normalizer", part));
        }
        let text = |key: &str| part[key].as_str().map_or(0, str::len);
        let by = match kind(part) {
            "Replace" => text("content").div_ceil(pattern("normalizer", part)?).max(1),
            // Once for a text.
            "Prepend" if text("prepend") > 64 => MOST_GROWTH + 1,
            _ => 1,
        };
        growth = growth.saturating_mul(by);
        if growth > MOST_GROWTH {
            return Err(format!("normalizers lengthen a text more than {MOST_GROWTH} times"));
        }
        Ok(())
    })?;
    parts("pre_tokenizer", "pretokenizers", &json["pre_tokenizer"], 0, &mut |part| {
        if !PRE_TOKENIZERS.contains(&kind(part)) {
            return Err(refused("pre_tokenizer", part));
        }
        if kind(part) == "Split" { pattern("pre_tokenizer", part).map(drop) } else { Ok(()) }
    })?;
    parts("decoder", "decoders", &json["decoder"], 0, &mut |part| {
        if !DECODERS.contains(&kind(part)) {
            return Err(refused("decoder", part));
        }
        let number = |key: &str| part[key].as_u64().unwrap_or(0);
        if kind(part) == "Strip" && number("start") > 0 && number("stop") > 0 {
            return Err("decoder \"Strip\" of both ends is not implemented".into());
        }
        if kind(part) == "Replace" && part["pattern"]["String"].as_str().is_none_or(str::is_empty) {
            return Err("decoder \"Replace\" of a pattern is not implemented".into());
        }
        if part["content"].as_str().is_some_and(|c| c.len() > 64) {
            return Err(format!(
                "decoder {:?} puts a text of {} bytes in",
                kind(part),
                part["content"].as_str().map_or(0, str::len)
            ));
        }
        Ok(())
    })?;
    let model = &json["model"];
    // Older files do not say that they are BPE.
    let older = model["type"].is_null() && model["merges"].is_array();
    if !(older || MODELS.contains(&kind(model))) {
        return Err(refused("model", model));
    }
    let added = json["added_tokens"].as_array().map_or(0, Vec::len);
    if added > MOST_ADDED {
        return Err(format!("has {added} added tokens, more than {MOST_ADDED}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_models_use_is_read_and_the_rest_is_refused_by_its_name() {
        let base = json!({"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": null, "pre_tokenizer": null, "decoder": null});
        assert_eq!(check(&base), Ok(()));
        let with = |key: &str, value: Value| {
            let mut json = base.clone();
            json[key] = value;
            check(&json)
        };
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let gemma =
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, space]});
        assert_eq!(with("normalizer", gemma), Ok(()));
        let long = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)});
        let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let nested = (0..9).fold(twice.clone(), |p, _| json!({"type": "Sequence", "normalizers": [p]}));
        for (key, value, why) in [
            ("normalizer", long, "lengthen"),
            ("normalizer", json!({"type": "Sequence", "normalizers": vec![twice; 7]}), "lengthen"),
            ("normalizer", nested, "nested"),
            ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""}), "Precompiled"),
            (
                "normalizer",
                json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}),
                "no pattern",
            ),
            ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "FixedLength"),
            ("decoder", json!({"type": "CTC"}), "CTC"),
            ("model", json!({"type": "Unigram"}), "Unigram"),
            ("added_tokens", json!(vec![json!({"id": 0, "content": "a"}); 20_001]), "20001 added"),
        ] {
            let said = with(key, value).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
    }
}
