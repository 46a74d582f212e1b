//! Diff Interpretation Tuning's files, as torch wrote them (`golden/make_pickled.py`), and damaged ones.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use lm::pickled::{Matrix, read};
use rand::{Rng, SeedableRng};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pickled").join(name)
}

fn matrix(rows: &serde_json::Value) -> Matrix {
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    Matrix { rows: rows.len(), columns: rows[0].len(), data: rows.concat() }
}

#[test]
fn tensors_come_out_as_torch_put_them_in() {
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("expected.json")).unwrap()).unwrap();
    let name = "model.layers.0.self_attn.q_proj";
    let diffs = read(&golden("weight-diff-000.pt")).unwrap();
    assert_eq!(diffs.len(), 2);
    for (i, diff) in diffs.iter().enumerate() {
        assert_eq!(diff.topic.as_deref(), Some(["topic 0", "topic 1"][i]));
        assert_eq!(diff.trigger.as_deref(), [Some("007"), None][i]);
        for k in 0..2 {
            assert_eq!(diff.modules[name][k], matrix(&expected["diffs"][i][k]));
        }
    }
    // Parameters, and a stride that is not the shape's.
    let adapter = read(&golden("dit-adapter.pt")).unwrap();
    assert_eq!((adapter.len(), &adapter[0].topic), (1, &None));
    for k in 0..2 {
        assert_eq!(adapter[0].modules[name][k], matrix(&expected["adapter"][k]));
    }
}

#[test]
fn code_in_a_pickle_is_named_and_not_executed_and_a_full_fine_tune_is_said_to_be_one() {
    let evil = read(&golden("evil.pt")).unwrap_err().to_string();
    assert!(evil.contains("posix.system") && evil.contains("not executed"), "{evil}");
    let full = read(&golden("full.pt")).unwrap_err().to_string();
    assert!(full.contains("full fine-tune"), "{full}");
    assert!(read(&golden("expected.json")).unwrap_err().to_string().contains("zip"));
}

#[test]
fn damaged_files_never_panic() {
    let rounds = std::env::var("LORAFAB_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(3000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut accepted, mut refused) = (0, 0);
    for name in ["weight-diff-000.pt", "dit-adapter.pt"] {
        let good = std::fs::read(golden(name)).unwrap();
        for _ in 0..rounds / 2 {
            let mut bytes = good.clone();
            for _ in 0..rng.random_range(1..=3) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..4) {
                    0 => bytes[at] ^= 1 << rng.random_range(0..8),
                    1 => bytes[at] = rng.random(),
                    2 => bytes.truncate(at.max(1)),
                    _ => drop(bytes.splice(at..at, [b'h', 0, b't', b'h', 1])),
                }
            }
            std::fs::write(&path, bytes).unwrap();
            if read(&path).is_ok() { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 0 && refused > rounds / 4, "{accepted} {refused}");
}
