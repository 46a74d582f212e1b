//! The tokenizer and the template of the default model.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::source::DEFAULT_MODEL;
use lm::{Outline, Precision};
use support::model_file;

/// Adapters in stores name the digest of the model that they were made on.
#[test]
fn the_default_model_has_the_digest_that_it_always_had() {
    let outline = Outline::load(&model_file(DEFAULT_MODEL), Precision::F32).unwrap();
    assert_eq!(
        outline.tokenizer.digest(),
        "3d1c46d1dc54b87385cb23d4bd798ba6d354d2c982ae986731649062ec09c1a2"
    );
    // Nothing but its text decides what it is.
    assert_eq!(outline.chat.digest(), blake3::hash(outline.chat.source().as_bytes()).to_hex().to_string());
    assert_eq!(outline.digest(), "ddf581a87438ff66e4a7788f951ebcdf91f22ec79e854949e69d70657782307e");
}
