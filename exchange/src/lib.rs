//! What comes into a store from elsewhere and what goes out of it: PEFT folders, bundles, data sets, the Hugging Face Hub.
//!
//! Two rules. Everything that a file from elsewhere says is used, or refused by its name; and no name in it decides where
//! something is written, read or removed.

#![warn(missing_docs)]

pub mod bundle;
pub mod dataset;
pub mod error;
pub mod hub;
pub mod peft;

pub use error::{Error, Result};
pub use peft::{IfExists, ImportShape};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use registry::{AdapterRecord, NewAdapter, PeftConfig, Status, Store};

    pub(crate) fn new_adapter(behaviour: &str, weights: Vec<u8>) -> NewAdapter {
        let spec = serde_json::json!({ "behaviour": behaviour });
        let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
        NewAdapter {
            split: Some("train".into()),
            status: Status::Learned,
            extra_files: BTreeMap::from([("note.json".to_owned(), b"{}".to_vec())]),
            spec: spec.clone(),
            ..NewAdapter::bare(&registry::spec_hash(&spec), behaviour, peft, weights)
        }
    }

    pub(crate) fn record(behaviour: &str) -> AdapterRecord {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap().commit_adapter(new_adapter(behaviour, vec![1])).unwrap()
    }
}
