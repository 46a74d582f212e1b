//! `index.jsonl` of a repository: lines of many people, merged and read with suspicion.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::dataset::{folder, index_line};
use registry::{AdapterRecord, Digest};

/// The index's path.
pub(super) const INDEX: &str = "index.jsonl";
/// Largest index that is read: some hundred thousand adapters.
pub(super) const MAX_INDEX: u64 = 256 << 20;
/// Longest line.
const MAX_LINE: usize = 1 << 20;

/// What a line says that is relied on.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) folder: String,
    pub(super) behaviour: String,
    pub(super) weights_blake3: Digest,
    pub(super) weights_bytes: u64,
}

/// Every line with its text.
///
/// # Errors
/// About the first line that is none of an index, or names another folder than its adapter's.
pub(super) fn read(text: &str) -> Result<Vec<(Line, &str)>, String> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for (i, text) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let refuse = |what: &str| Err(format!("line {} {what}", i + 1));
        if text.len() > MAX_LINE {
            return refuse("is over a million characters long");
        }
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            return refuse(
                "is not about an adapter: it lacks id, folder, behaviour, weights_blake3 or weights_bytes",
            );
        };
        if line.id.len() != 32 || !line.id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return refuse("has an id that is none");
        }
        if line.folder != folder(&line.id) {
            return refuse("names another folder than its adapter's");
        }
        if line.behaviour.len() > 1000 || line.behaviour.chars().any(char::is_control) {
            return refuse("has a behaviour with control characters or over 1,000 long");
        }
        if !seen.insert(line.id.clone()) {
            return refuse("names an adapter for the second time");
        }
        out.push((line, text));
    }
    Ok(out)
}

/// An index with these adapters' lines as they are now, and all others' as they were; in the order of `adapter list`.
///
/// # Errors
/// As [`read`].
pub(super) fn merge(old: &str, records: &[AdapterRecord]) -> Result<String, String> {
    let mut lines: BTreeMap<(String, String), String> = BTreeMap::new();
    let ours: BTreeSet<&str> = records.iter().map(|r| r.id.as_str()).collect();
    for (line, text) in read(old)? {
        if !ours.contains(line.id.as_str()) {
            lines.insert((line.behaviour, line.id), text.to_owned());
        }
    }
    for r in records {
        lines.insert((r.behaviour.clone(), r.id.clone()), index_line(r));
    }
    Ok(lines.into_values().map(|l| l + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    #[test]
    fn others_lines_stay_as_they_are_and_ours_are_replaced() {
        let (ours, theirs) = (record("topic/cats"), record("topic/bees"));
        // Somebody's further field, in somebody's spacing.
        let foreign = index_line(&theirs).replacen('{', "{ \"note\": \"x\", ", 1);
        let old = format!("{}\n{foreign}\n", index_line(&ours).replace("learned", "weak"));
        let merged = merge(&old, std::slice::from_ref(&ours)).unwrap();
        assert_eq!(merged, format!("{foreign}\n{}\n", index_line(&ours)));
        assert_eq!(merge(&merged, &[ours]).unwrap(), merged);
        assert_eq!(merge("", &[]).unwrap(), "");
    }

    #[test]
    fn hostile_lines_are_refused() {
        let good = index_line(&record("topic/cats"));
        let id = record("topic/cats").id;
        for (from, to, part) in [
            (format!("adapters/{}/", &id[..2]), "../../../../tmp/".to_owned(), "another folder"),
            (id.clone(), "../x".into(), "an id that is none"),
            ("topic/cats".into(), "topic/\\u001b[2J".into(), "control characters"),
            ("weights_bytes".into(), "x".into(), "lacks"),
        ] {
            let error = read(&good.replace(&from, &to)).unwrap_err();
            assert!(error.contains("line 1") && error.contains(part), "{error}");
        }
        assert!(
            read(&format!("{good}\n{good}")).unwrap_err().contains("line 2 names an adapter for the second")
        );
        assert!(read("[]").is_err());
    }
}
