//! The parts that families' `tokenizer.json` files are put together from, against transformers (`golden/tokenizers.py`): texts, prompts and
//! the replies that follow them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use lm::{Message, Role, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    name: String,
    tokenizer: Value,
    config: Value,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
    alone: Vec<u32>,
    /// A user turn and the opening of the reply; the same with the reply.
    prompt: Vec<u32>,
    whole: Vec<u32>,
}

#[derive(Deserialize)]
struct Golden {
    user: String,
    reply: String,
    cases: Vec<Case>,
}

fn golden() -> Golden {
    let text = include_str!("golden/tokenizers.json");
    serde_json::from_str(text).unwrap()
}

fn language(at: &Path, case: &Case) -> lm::Result<(Tokenizer, lm::ChatTemplate)> {
    std::fs::write(at.join("tokenizer.json"), case.tokenizer.to_string()).unwrap();
    std::fs::write(at.join("tokenizer_config.json"), case.config.to_string()).unwrap();
    lm::language(at, None)
}

#[test]
fn parts_of_every_family_give_the_tokens_that_transformers_gives() {
    let golden = golden();
    for case in &golden.cases {
        let at = tempfile::tempdir().unwrap();
        let (tokenizer, chat) = language(at.path(), case).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for ((text, ids), decoded) in case.texts.iter().zip(&case.ids).zip(&case.decoded) {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{}: {text:?}", case.name);
            // Control tokens are left out of texts: there are none in these.
            assert_eq!(&tokenizer.decode(ids).unwrap(), decoded, "{}: {text:?}", case.name);
        }
        assert_eq!(tokenizer.encode_alone("the a").unwrap(), case.alone, "{}", case.name);
        let mut words = 0;
        for (piece, id) in case.tokenizer["model"]["vocab"].as_object().unwrap() {
            let word = piece.strip_prefix(['\u{2581}', 'Ġ']).filter(|w| !w.is_empty());
            if let Some(word) = word.filter(|w| w.chars().all(|c| c.is_ascii_alphabetic())) {
                let text = tokenizer.text_within(id.as_u64().unwrap() as u32).unwrap();
                assert_eq!(text, format!(" {word}"), "{}", case.name);
                words += 1;
            }
        }
        assert!(words > 0, "{}", case.name);
        let user = Message::new(Role::User, &golden.user);
        assert_eq!(
            chat.encode(&tokenizer, std::slice::from_ref(&user), true).unwrap(),
            case.prompt,
            "{}",
            case.name
        );
        // With an empty system prompt, which these templates refuse.
        let prompt = chat.encode_prompt(&tokenizer, "", &golden.user).unwrap();
        assert_eq!(prompt, case.prompt, "{}", case.name);
        let refused = chat.encode_prompt(&tokenizer, "Be brief.", &golden.user).unwrap_err();
        assert!(refused.to_string().contains("system message"), "{refused}");
        let together = [prompt, chat.encode_reply(&tokenizer, &golden.reply).unwrap()].concat();
        assert!(case.whole.starts_with(&together), "{}: {together:?} {:?}", case.name, case.whole);
        assert!(case.whole.len() <= together.len() + 2, "{}", case.name);
        let whole = [user, Message::new(Role::Assistant, &golden.reply)];
        assert_eq!(chat.encode(&tokenizer, &whole, false).unwrap(), case.whole, "{}", case.name);
    }
    assert!(golden.cases.len() >= 10);
}

#[test]
fn what_a_model_says_can_be_encoded_again() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny");
    let (tokenizer, _) = lm::language(&tiny, None).unwrap();
    // The bytes of U+F8F1, a mark of this crate's own, as tokens: a text with it is refused, a model may say it.
    let ids = ["\u{ef}", "\u{a3}", "\u{b1}"].map(|byte| tokenizer.token_id(byte).unwrap());
    assert!(tokenizer.encode("\u{f8f1}").is_err());
    let said = tokenizer.decode(&ids).unwrap();
    assert_eq!(said, "\u{fffd}");
    tokenizer.encode(&said).unwrap();
}

#[test]
fn what_is_no_tokenizer_is_one_sentence() {
    let mut case = golden().cases.remove(0);
    let good = case.tokenizer.clone();
    let id = |content: &str, id: u64| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    for (path, value, why) in [
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/dropout", json!(0.5), "dropout"),
        ("/model/merges", json!([["a"]]), "merges"),
        ("/model/merges", json!("a b"), "no object"),
        ("/model/vocab", json!({"a": -1}), "vocab"),
        ("/model/fuse_unk", json!(1), "fuse_unk"),
        ("/model/unk_token", json!(1), "unk_token"),
        ("/added_tokens/0", json!({"id": 0, "content": "<unk>"}), "<unk>"),
        ("/added_tokens/0", id("<s>", 0), "there twice"),
        ("/added_tokens/0", id("<x>", 77_000), "77000"),
        ("/normalizer", json!({"type": "Precompiled"}), "Precompiled"),
    ] {
        let at = tempfile::tempdir().unwrap();
        case.tokenizer = good.clone();
        *case.tokenizer.pointer_mut(path).unwrap() = value;
        let said = language(at.path(), &case).unwrap_err().to_string();
        assert!(
            said.contains("tokenizer.json") && (said.contains(why) || why == "no object"),
            "{path}: {said}"
        );
        assert!(said.len() < 400 && !said.contains('\n'), "{said}");
    }
}
