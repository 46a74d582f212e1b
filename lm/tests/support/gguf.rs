//! A one-layer model as a GGUF file of any tensor type, small enough to be written in a test.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

pub(crate) const WIDTH: usize = 256;
pub(crate) const HEADS: usize = 4;
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// GPT-2's names of the 256 bytes, one merged token, two control tokens.
pub(crate) fn vocabulary() -> Vec<String> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut names: Vec<String> = (0..256)
        .map(|b| {
            let code = if plain(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    names.extend(["ab".to_owned(), "<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    names
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.5 - 1.0) * 0.1).collect()
}

/// A model of one layer: names and shapes as llama.cpp writes them.
pub(crate) fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let vocab = vocabulary().len();
    let shapes = [
        ("token_embd.weight", vec![vocab, WIDTH]),
        ("output_norm.weight", vec![WIDTH]),
        ("blk.0.attn_norm.weight", vec![WIDTH]),
        ("blk.0.ffn_norm.weight", vec![WIDTH]),
        ("blk.0.attn_q.weight", vec![WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", vec![WIDTH / 2, WIDTH]),
        ("blk.0.attn_v.weight", vec![WIDTH / 2, WIDTH]),
        ("blk.0.attn_output.weight", vec![WIDTH, WIDTH]),
        ("blk.0.ffn_gate.weight", vec![2 * WIDTH, WIDTH]),
        ("blk.0.ffn_up.weight", vec![2 * WIDTH, WIDTH]),
        ("blk.0.ffn_down.weight", vec![WIDTH, 2 * WIDTH]),
    ];
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let n = shape.iter().product();
            (name.to_owned(), (shape, noise(n, i + 1)))
        })
        .collect()
}

pub(crate) fn file(dtype: GgmlDType) -> Vec<u8> {
    file_with(dtype, &[], &[])
}

/// The same with more metadata, which goes before what is there, and more tensors, by name and shape.
pub(crate) fn file_with(dtype: GgmlDType, more: &[(&str, Value)], added: &[(&str, Vec<usize>)]) -> Vec<u8> {
    made(dtype, more, added, None)
}

/// The same without a metadata key.
pub(crate) fn file_without(key: &str) -> Vec<u8> {
    made(GgmlDType::F32, &[], &[], Some(key))
}

fn made(
    dtype: GgmlDType,
    more: &[(&str, Value)],
    added: &[(&str, Vec<usize>)],
    without: Option<&str>,
) -> Vec<u8> {
    let texts =
        |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect::<Vec<Value>>());
    let number = |n: usize| Value::U32(n as u32);
    let kinds = (0..vocabulary().len()).map(|i| Value::I32(if i < 257 { 1 } else { 3 })).collect();
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("tiny".into())),
        ("llama.embedding_length", number(WIDTH)),
        ("llama.feed_forward_length", number(2 * WIDTH)),
        ("llama.block_count", number(1)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(HEADS / 2)),
        ("llama.context_length", number(64)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", texts(vocabulary())),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", texts(vec!["a b".into()])),
        ("tokenizer.ggml.eos_token_id", number(258)),
        ("tokenizer.chat_template", Value::String(TEMPLATE.into())),
    ];
    let extra = added
        .iter()
        .map(|(name, shape)| ((*name).to_owned(), (shape.clone(), noise(shape.iter().product(), 77))));
    let quantised: Vec<(String, QTensor)> = tensors()
        .into_iter()
        .chain(extra)
        .map(|(name, (shape, data))| {
            let tensor = Tensor::from_vec(data, shape.clone(), &Device::Cpu).unwrap();
            // llama.cpp keeps vectors in f32 whatever the file's type.
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let mut out = std::io::Cursor::new(Vec::new());
    let metadata: Vec<(&str, &Value)> = metadata
        .iter()
        .map(|(k, v)| (*k, v))
        .filter(|(k, _)| !more.iter().any(|(m, _)| m == k) && without != Some(*k))
        .chain(more.iter().map(|(k, v)| (*k, v)))
        .collect();
    let views: Vec<(&str, &QTensor)> = quantised.iter().map(|(n, t)| (n.as_str(), t)).collect();
    write(&mut out, &metadata, &views).unwrap();
    out.into_inner()
}
