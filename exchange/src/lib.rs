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
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    pub(crate) fn new_adapter(behaviour: &str, weights: Vec<u8>) -> NewAdapter {
        let spec = serde_json::json!({ "behaviour": behaviour });
        let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
        NewAdapter {
            split: Some("train".into()),
            status: Status::Learned,
            extra_files: BTreeMap::from([("note.json".to_owned(), b"{}".to_vec())]),
            ..NewAdapter::of_spec(spec, behaviour, peft, weights)
        }
    }

    /// Weights of rank 1 of one layer's q_proj.
    pub(crate) fn weights(fill: f32) -> Vec<u8> {
        let data = |n: usize| fill.to_le_bytes().repeat(n);
        let (a, b) = (data(4), data(3));
        let view = |shape: [usize; 2], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        let name = |which: &str| {
            format!("{}model.layers.0.self_attn.q_proj.lora_{which}.weight", crate::peft::PREFIX)
        };
        safetensors::serialize([(name("A"), view([1, 4], &a)), (name("B"), view([3, 1], &b))], None).unwrap()
    }

    pub(crate) fn record(behaviour: &str) -> AdapterRecord {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap().commit_adapter(new_adapter(behaviour, vec![1])).unwrap()
    }
}
