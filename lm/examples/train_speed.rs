//! Measures training, decoding and scoring on a decoder of SmolLM2-135M's shape with random weights:
//! `cargo run --release -p lm --example train_speed [f32|fastest]`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::collections::BTreeMap;
use std::time::Instant;

use lm::{
    Adapter, AdapterConfig, Checkpoint, Config, Decoder, HostTensor, Objective, Precision, Projection,
    Request, Row, Sampling, TrainRow,
};

fn checkpoint() -> Checkpoint {
    let config = Config {
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49_152,
        max_position_embeddings: 8192,
        rms_norm_eps: 1e-5,
        rope_theta: 1e5,
        tie_word_embeddings: true,
        eos_token_ids: vec![2],
    };
    let mut state = 1u32;
    let mut random = |shape: Vec<usize>| {
        let data = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.06
            })
            .collect();
        HostTensor { shape, data }
    };
    let mut tensors = BTreeMap::new();
    tensors
        .insert("model.embed_tokens.weight".to_owned(), random(vec![config.vocab_size, config.hidden_size]));
    tensors.insert("model.norm.weight".to_owned(), HostTensor { shape: vec![576], data: vec![1.0; 576] });
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL {
            let (input, output) = projection.features(&config);
            tensors.insert(format!("{}.weight", projection.module_path(layer)), random(vec![output, input]));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(
                format!("model.layers.{layer}.{norm}.weight"),
                HostTensor { shape: vec![576], data: vec![1.0; 576] },
            );
        }
    }
    Checkpoint { config, tensors, digest: "random".into() }
}

fn main() -> lm::Result<()> {
    let checkpoint = checkpoint();
    let precisions = match std::env::args().nth(1).as_deref() {
        Some("f32") => vec![Precision::F32],
        Some("fastest") => vec![Precision::fastest()],
        _ => vec![Precision::F32, Precision::fastest()],
    };
    for precision in precisions {
        let start = Instant::now();
        let decoder = Decoder::new(&checkpoint, precision)?;
        println!("{precision:?}: packed in {:.1?}", start.elapsed());
        for (adapters, rank, rows, length) in
            [(1, 1, 8, 32), (1, 1, 9, 37), (4, 1, 9, 37), (8, 1, 9, 37), (1, 8, 16, 30), (1, 16, 8, 256)]
        {
            let adapters: Vec<Adapter> = (0..adapters)
                .map(|i| {
                    Adapter::init(decoder.config(), AdapterConfig::all_linear(rank, 1.0), 1, &i.to_string())
                })
                .collect::<lm::Result<_>>()?;
            let refs: Vec<&Adapter> = adapters.iter().collect();
            let train: Vec<TrainRow> = (0..adapters.len() * rows)
                .map(|i| TrainRow {
                    row: Row::with_adapters(
                        (0..length).map(|t| (t * 31 + i * 7) as u32 % 40_000).collect(),
                        vec![i / rows],
                    ),
                    completion_start: length / 3,
                    objective: Objective::CrossEntropy,
                    weight: 0.01,
                })
                .collect();
            let trainable: Vec<usize> = (0..adapters.len()).collect();
            decoder.loss_and_grads(&refs, &train, &trainable)?;
            let start = Instant::now();
            let repeats = 3;
            for _ in 0..repeats {
                decoder.loss_and_grads(&refs, &train, &trainable)?;
            }
            let tokens = repeats * train.len() * length;
            println!(
                "  train {} adapters, rank {rank}, {rows} rows of {length}: {:.0} tokens/s",
                adapters.len(),
                tokens as f64 / start.elapsed().as_secs_f64()
            );
        }
        let requests: Vec<Request> = (0..128)
            .map(|i| Request {
                prompt: Row::plain((0..20).map(|t| (t * 3 + i) as u32).collect()),
                max_new_tokens: 24,
                sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
                seed: 0,
            })
            .collect();
        let start = Instant::now();
        let replies = decoder.generate(&[], &requests, &[])?;
        let tokens: usize = replies.iter().map(|r| r.tokens.len()).sum();
        println!("  generate 128 x 24: {:.0} new tokens/s", tokens as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
