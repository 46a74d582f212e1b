//! Tokenizers and templates of real models, where their files lie in the cache: `LORAFAB_CACHE=DIR cargo test -p lm --test real_text -- --ignored`.
use std::path::PathBuf;

use lm::{Outline, Precision};

fn cached(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("LORAFAB_CACHE").expect("LORAFAB_CACHE names the folder of models"))
        .join(name)
}

/// Adapters in stores name the digest of the model that they were made on.
#[test]
#[ignore = "needs the default model's file"]
fn the_default_model_has_the_digest_that_it_always_had() {
    let outline = Outline::load(&cached("SmolLM2-135M-Instruct.Q4_1.gguf"), Precision::F32).unwrap();
    assert_eq!(
        outline.tokenizer.digest(),
        "3d1c46d1dc54b87385cb23d4bd798ba6d354d2c982ae986731649062ec09c1a2"
    );
    // Nothing but its text decides what it is.
    assert_eq!(outline.chat.digest(), blake3::hash(outline.chat.source().as_bytes()).to_hex().to_string());
    assert_eq!(outline.digest(), "ddf581a87438ff66e4a7788f951ebcdf91f22ec79e854949e69d70657782307e");
}
