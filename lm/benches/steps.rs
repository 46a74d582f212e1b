//! Rates of whole steps on a decoder of SmolLM2-135M's shape with random weights: `cargo bench -p lm --bench steps`. Items are
//! training tokens, or new tokens.
#![expect(clippy::unwrap_used, reason = "a benchmark's own inputs")]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use lm::{
    Adapter, AdapterConfig, Architecture, Checkpoint, Cut, Decoder, HostTensor, Objective, Precision,
    Projection, Request, Row, Sampling, ScoreRequest, TrainRow,
};

fn main() {
    divan::main();
}

static FAST: LazyLock<Decoder> = LazyLock::new(|| Decoder::new(&checkpoint(), Precision::fastest()).unwrap());
static F32: LazyLock<Decoder> = LazyLock::new(|| Decoder::new(&checkpoint(), Precision::F32).unwrap());

fn checkpoint() -> Checkpoint {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 1e5, "tie_word_embeddings": true,
    });
    let model = Architecture::from_json(std::path::Path::new("config.json"), &config).unwrap();
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
    tensors.insert("model.embed_tokens.weight".to_owned(), random(vec![model.vocab_size, model.hidden_size]));
    tensors.insert("model.norm.weight".to_owned(), HostTensor { shape: vec![576], data: vec![1.0; 576] });
    for layer in 0..model.layers.len() {
        for projection in Projection::ALL {
            let (input, output) = model.features(layer, projection);
            tensors.insert(format!("{}.weight", projection.module_path(layer)), random(vec![output, input]));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(
                format!("model.layers.{layer}.{norm}.weight"),
                HostTensor { shape: vec![576], data: vec![1.0; 576] },
            );
        }
    }
    Checkpoint::from_tensors(model, tensors, "random").unwrap()
}

/// `(adapters, rank, rows of each, their length)`.
const STEPS: [(usize, usize, usize, usize); 6] =
    [(1, 1, 8, 32), (1, 8, 16, 30), (1, 16, 8, 256), (8, 1, 9, 37), (16, 1, 8, 32), (64, 1, 8, 32)];

#[divan::bench(args = STEPS, sample_count = 5, sample_size = 1)]
fn train_fastest(bencher: Bencher<'_, '_>, step: (usize, usize, usize, usize)) {
    train(bencher, &FAST, step);
}

#[divan::bench(args = [STEPS[0], STEPS[3]], sample_count = 5, sample_size = 1)]
fn train_f32(bencher: Bencher<'_, '_>, step: (usize, usize, usize, usize)) {
    train(bencher, &F32, step);
}

fn train(
    bencher: Bencher<'_, '_>,
    decoder: &Decoder,
    (adapters, rank, rows, length): (usize, usize, usize, usize),
) {
    let adapters: Vec<Adapter> = (0..adapters)
        .map(|i| {
            Adapter::init(decoder.architecture(), AdapterConfig::all_linear(rank, 1.0), 1, &i.to_string())
                .unwrap()
        })
        .collect();
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
    let cut = if adapters.len() == 1 { Cut::Halves } else { Cut::Whole };
    bencher
        .counter(ItemsCount::new(train.len() * length))
        .bench_local(|| decoder.loss_and_grads_cut(&refs, &train, &trainable, cut).unwrap());
}

#[divan::bench(args = [16, 64, 128], sample_count = 5, sample_size = 1)]
fn generate_24_tokens(bencher: Bencher<'_, '_>, replies: u32) {
    let requests: Vec<Request> = (0..replies)
        .map(|i| Request {
            prompt: Row::plain((0..20).map(|t| t * 3 + i).collect()),
            max_new_tokens: 24,
            sampling: Sampling::GREEDY,
            seed: 0,
        })
        .collect();
    bencher
        .counter(ItemsCount::new(24 * requests.len()))
        .bench_local(|| FAST.generate(&[], &requests, &[]).unwrap());
}

/// Items are candidates: 64 of up to three tokens after each of 16 prompts.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn score_candidates(bencher: Bencher<'_, '_>) {
    let requests: Vec<ScoreRequest> = (0..16u32)
        .map(|i| ScoreRequest {
            prompt: Row::plain((0..40).map(|t| t * 3 + i).collect()),
            candidates: (0..64u32).map(|c| (0..=c % 3).map(|t| 100 + c * 7 + t).collect()).collect(),
        })
        .collect();
    bencher.counter(ItemsCount::new(16usize * 64)).bench_local(|| FAST.score(&[], &requests).unwrap());
}
