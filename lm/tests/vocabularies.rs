//! Vocabularies of GGUF files, against transformers (`golden/vocabularies.py`): the same tokens and the same texts.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::Tokenizer;
use serde::Deserialize;
use support::{golden_folder, model_file};

#[derive(Deserialize)]
struct Case {
    name: String,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    alone: Vec<u32>,
    decoded: Vec<String>,
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    real: Case,
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(golden_folder().join("vocabularies.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A control token, so that there is a template.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";

fn tokenizer(path: &std::path::Path) -> Tokenizer {
    lm::language(path, Some(TEMPLATE)).unwrap_or_else(|e| panic!("{e}")).0
}

fn check(case: &Case, tokenizer: &Tokenizer) {
    for ((text, ids), decoded) in case.texts.iter().zip(&case.ids).zip(&case.decoded) {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{}: {text:?}", case.name);
        assert_eq!(&tokenizer.decode(ids).unwrap(), decoded, "{}: {text:?}", case.name);
    }
    assert_eq!(tokenizer.encode_alone("a b").unwrap(), case.alone, "{}", case.name);
    assert!(case.texts.len() > 10, "{}", case.name);
}

#[test]
fn vocabularies_of_every_kind_give_the_tokens_that_transformers_gives() {
    let golden = golden();
    for case in &golden.cases {
        let path = golden_folder().join("vocabularies").join(format!("{}.gguf", case.name));
        check(case, &tokenizer(&path));
    }
    assert!(golden.cases.len() >= 8);
}

/// `<think>` is a word, `</s>` in a text is none.
#[test]
fn only_what_the_file_calls_control_is_a_control_token() {
    for name in ["pieces_spaced", "pieces_bare", "bytes_qwen2"] {
        let tokenizer = tokenizer(&golden_folder().join("vocabularies").join(format!("{name}.gguf")));
        let think = tokenizer.token_id("<think>").unwrap();
        assert!(!tokenizer.special_tokens().contains_key("<think>"), "{name}");
        assert!(tokenizer.encode("a<think>b").unwrap().contains(&think), "{name}");
        assert!(tokenizer.decode(&[think]).unwrap().contains("<think>"), "{name}");
        for (text, id) in tokenizer.special_tokens() {
            for said in [text.clone(), format!("x {text} y")] {
                let found = tokenizer.encode(&said).unwrap();
                assert!(!found.contains(id), "{name}: {said:?}: {found:?}");
                assert_eq!(tokenizer.decode(&found).unwrap().trim(), said, "{name}");
            }
        }
    }
}

/// What this thread has computed, whatever else runs on the machine.
fn cpu_seconds() -> f64 {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    said.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// `cargo test --release -p lm --test vocabularies -- --ignored` (in `.ci/run`).
#[test]
#[ignore = "needs Gemma 3 270M, 253 MB"]
fn gemmas_vocabulary_is_read_within_seconds_and_as_transformers_reads_it() {
    let golden = golden();
    let file = model_file("gemma-3-270m");
    let start = cpu_seconds();
    let tokenizer = tokenizer(&file);
    let seconds = cpu_seconds() - start;
    check(&golden.real, &tokenizer);
    // The last of 262,144 are control tokens.
    assert_eq!(tokenizer.size(), 256_001);
    assert!(seconds < 2.0, "{seconds} s");
}
