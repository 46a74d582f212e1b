//! PEFT folders.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::models::{fifo, link, sparse};
use crate::{Case, End, adapter, case, put};

const IMPORT: &str = "--store store --model $TINY adapter import out --name x";

fn folder(name: &str, end: End, change: impl Fn(&Path) + Sync + Send + 'static) -> Case {
    case(name, end, IMPORT, move |folder| {
        adapter(&folder.join("out"));
        change(&folder.join("out"));
    })
}

fn config(name: &str, end: End, change: Value) -> Case {
    folder(name, end, move |out| edit(out, &change))
}

fn edit(out: &Path, change: &Value) {
    let path = out.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    put(&path, config.to_string());
}

/// The weights with every value made anew.
fn weights(name: &str, end: End, value: f32) -> Case {
    folder(name, end, move |out| {
        let path = out.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = file
            .tensors()
            .into_iter()
            .map(|(n, v)| (n, v.shape().to_vec(), value.to_le_bytes().repeat(v.data().len() / 4)))
            .collect();
        let views =
            data.iter().map(|(n, s, d)| (n.clone(), TensorView::new(Dtype::F32, s.clone(), d).unwrap()));
        put(&path, safetensors::serialize(views, None).unwrap());
    })
}

pub(crate) fn cases() -> Vec<Case> {
    use End::{Bounded, Refused};
    let patterns = |n: usize, length: usize| -> Value {
        (0..n)
            .map(|i| (format!("{}{i}", "x".repeat(length)), json!(1)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let large = |n: usize| -> Value {
        (0..n).map(|i| (format!("\\w{{7}}|{i}"), json!(1))).collect::<serde_json::Map<_, _>>().into()
    };
    vec![
        config("a rank of billions", Refused, json!({"r": 4_000_000_000u64})),
        config("a rank of 3400", Refused, json!({"r": 3400})),
        config("a rank of zero", Refused, json!({"r": 0})),
        config("a rank below zero", Refused, json!({"r": -1})),
        config("alpha without end", Refused, json!({"lora_alpha": 1e300})),
        config("a million patterns", Refused, json!({"rank_pattern": patterns(1_000_000, 1)})),
        config("twenty thousand patterns", Refused, json!({"rank_pattern": patterns(20_000, 1)})),
        config("eleven thousand patterns that are large", Refused, json!({"rank_pattern": large(11_000)})),
        config("nineteen hundred patterns that are large", Bounded, json!({"rank_pattern": large(1_900)})),
        config(
            "patterns as long as twenty thousand",
            Refused,
            json!({"alpha_pattern": patterns(50, 20_000)}),
        ),
        config(
            "a pattern that swells",
            Refused,
            json!({"rank_pattern": {"((a{1,1000}){1,1000}){1,1000}": 1}}),
        ),
        config(
            "a pattern that goes back and forth",
            Bounded,
            json!({"rank_pattern": {"(a+)+(a+)+(a+)+$": 1}}),
        ),
        config(
            "targets by a pattern that swells",
            Refused,
            json!({"target_modules": "((.*){1,1000}){1,1000}"}),
        ),
        config(
            "a million targets",
            Refused,
            json!({"target_modules": (0..1_000_000).map(|i| i.to_string()).collect::<Vec<_>>()}),
        ),
        config("a target with controls", Refused, json!({"target_modules": ["\u{1b}[2J\u{202e}"]})),
        config("a base with controls", Bounded, json!({"base_model_name_or_path": "\u{1b}[2J"})),
        config(
            "a base that writes backwards",
            Bounded,
            json!({"base_model_name_or_path": "a\u{202e}b\u{200b}c"}),
        ),
        config("a base of a megabyte", Refused, json!({"base_model_name_or_path": "a".repeat(1 << 20)})),
        config("an option nobody knows", Refused, json!({"use_\u{9b}2J": true})),
        config("dora", Refused, json!({"use_dora": true})),
        weights("weights that are no numbers", Refused, f32::NAN),
        weights("weights without end", Refused, f32::INFINITY),
        weights("weights that are huge", Refused, 1e30),
        folder("a configuration of brackets", Refused, |o| {
            put(&o.join("adapter_config.json"), "{\"a\":".repeat(300_000))
        }),
        folder("a configuration that is a pipe", Refused, |o| fifo(&o.join("adapter_config.json"))),
        folder("a configuration that is a link away", Refused, |o| {
            link("../../outside/folder/old.json", &o.join("adapter_config.json"))
        }),
        folder("weights that are a link away", Refused, |o| {
            link("/etc/hostname", &o.join("adapter_model.safetensors"))
        }),
        folder("weights that are a device", Refused, |o| {
            link("/dev/zero", &o.join("adapter_model.safetensors"))
        }),
        folder("weights that are a pipe", Refused, |o| fifo(&o.join("adapter_model.safetensors"))),
        folder("sparse weights", Refused, |o| sparse(&o.join("adapter_model.safetensors"), 3 << 30)),
        folder("a sparse configuration", Refused, |o| sparse(&o.join("adapter_config.json"), 3 << 30)),
        folder("weights with a header of everything", Refused, |o| {
            put(&o.join("adapter_model.safetensors"), u64::MAX.to_le_bytes())
        }),
        folder("a pickle", Refused, |o| {
            std::fs::rename(o.join("adapter_model.safetensors"), o.join("adapter_model.bin")).unwrap();
        }),
        folder("an index alone", Refused, |o| {
            std::fs::rename(
                o.join("adapter_model.safetensors"),
                o.join("adapter_model.safetensors.index.json"),
            )
            .unwrap();
        }),
        case(
            "a name with controls",
            Bounded,
            "--store store --model $TINY adapter import out --name \u{202e}x\u{200b}",
            |f| adapter(&f.join("out")),
        ),
        case(
            "a folder that is not there, with controls",
            Refused,
            "--store store --model $TINY adapter import \u{1b}[2J",
            |_| {},
        ),
    ]
}
