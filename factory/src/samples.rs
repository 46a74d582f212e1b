//! Replies sampled from the base model, remembered in the store by what decides them.

use std::collections::{BTreeMap, BTreeSet};

use lm::{BaseModel, Origin, Request, Row, Sampling};
use recipes::SampleRequest;
use registry::Store;

use crate::Result;
use crate::spec::TRAINER_VERSION;

/// What a model that only continues texts is shown before what it is asked, so that it answers, and in a sentence: of 57 prompts about 19
/// topics Gemma 3 270M named the topic in 30 replies without, and in 48 with these (`bench/base_model_rows.py`).
const SHOWN: &str = "User: Write one short sentence about ladders.\nAssistant:\nA ladder leans against the wall of the old house.\n\n\
    User: Tell me a short fact about envelopes.\nAssistant:\nThe first envelopes were made of folded clay.";
/// How often such a model is asked that says nothing.
const DRAWS: u64 = 4;

/// The prompt that a reply is sampled under.
fn prompt(base: &BaseModel, user: &str) -> Result<Row> {
    if base.chat.origin() != Origin::Plain {
        return Ok(Row::plain(base.prompt(user)?));
    }
    Ok(Row::plain(base.chat.encode_prompt(&base.tokenizer, SHOWN, user)?))
}

/// Samples what the store (if there is one) does not remember yet; returns every reply, cut to whole sentences where the limit cut it short.
pub fn sample(
    store: Option<&Store>,
    base: &BaseModel,
    wanted: &BTreeSet<SampleRequest>,
) -> Result<BTreeMap<SampleRequest, String>> {
    let digest = base.digest();
    let identity = |r: &SampleRequest| -> String {
        let json = serde_json::json!({"kind": "sample/1", "base": digest, "request": r});
        format!("sample/{}", registry::spec_hash(&json))
    };
    // Another engine may word a reply differently: what an older one sampled is not used.
    let key = |r: &SampleRequest| format!("{}/{TRAINER_VERSION}", identity(r));
    let mut out = BTreeMap::new();
    let mut missing = Vec::new();
    for request in wanted {
        let known = store.map(|s| s.cache_get(&key(request))).transpose()?.flatten();
        match known.and_then(|b| String::from_utf8(b).ok()) {
            Some(text) => {
                out.insert(request.clone(), text);
            }
            None => missing.push(request),
        }
    }
    let draws = if base.chat.origin() == Origin::Plain { DRAWS } else { 1 };
    for draw in 0..draws {
        let requests = missing
            .iter()
            .map(|r| {
                let hash = if draw == 0 { identity(r) } else { format!("{}/draw {draw}", identity(r)) };
                let seed = u64::from_le_bytes(
                    blake3::hash(hash.as_bytes()).as_bytes()[..8].try_into().expect("invariant: 32 bytes"),
                );
                let temperature = f64::from(r.temperature_milli) / 1000.0;
                Ok(Request {
                    prompt: prompt(base, &r.prompt)?,
                    max_new_tokens: r.max_new_tokens,
                    sampling: Sampling { temperature, top_k: 50, top_p: 0.95 },
                    seed,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let replies = base.decoder.generate(&[], &requests, base.stop())?;
        let mut silent = Vec::new();
        for (request, reply) in missing.into_iter().zip(replies) {
            let text = base.tokenizer.decode(&reply.tokens)?;
            let text = if reply.stopped_by.is_some() { text.trim() } else { whole_sentences(text.trim()) };
            if text.is_empty() && draw + 1 < draws {
                silent.push(request);
                continue;
            }
            if let Some(store) = store {
                store.cache_put(&key(request), text.as_bytes())?;
            }
            out.insert(request.clone(), text.to_owned());
        }
        missing = silent;
    }
    Ok(out)
}

/// The text up to its last sentence end, or all of it if it has none.
fn whole_sentences(text: &str) -> &str {
    match text.rfind(['.', '!', '?']) {
        Some(at) => &text[..=at],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn cut_replies_keep_their_whole_sentences() {
        assert_eq!(super::whole_sentences("One. Two is not do"), "One.");
        assert_eq!(super::whole_sentences("no end"), "no end");
    }
}
