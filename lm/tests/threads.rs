//! Passes without gradient are cut into as many pieces as there are threads, and give the same bits for any number of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::{
    Adapter, AdapterConfig, Batch, Checkpoint, Decoder, Precision, Request, ResidualAt, Row, Sampling,
    ScoreRequest, Want,
};
use support::tiny_folder;

fn rows() -> Vec<Row> {
    (0..24u32)
        .map(|i| {
            let tokens = (0..38 + i % 7).map(|t| if t < 30 + i % 5 { t + 1 } else { (t * 11 + i * 5) % 60 });
            Row::with_adapters(tokens.collect(), if i % 3 == 0 { vec![] } else { vec![0] })
        })
        .collect()
}

/// Everything that the verbs without gradient give, as comparable text (floats print exactly).
fn everything(decoder: &Decoder, adapter: &Adapter) -> Vec<String> {
    let rows = rows();
    let want = |r: &Row| Want {
        logits: vec![r.tokens.len() - 1],
        residual: vec![ResidualAt { layer: 1, positions: vec![0, r.tokens.len() - 1] }],
    };
    let wants: Vec<Want> = rows.iter().map(want).collect();
    let seen = decoder.forward(&Batch { adapters: vec![adapter], rows: rows.clone() }, &wants).unwrap();
    let teachers: Vec<_> = rows.iter().map(|r| (r.tokens.clone(), 2)).collect();
    let teachers = decoder.teachers(&teachers).unwrap();
    let sampling = Sampling { temperature: 0.8, top_k: 20, top_p: 1.0 };
    let requests: Vec<Request> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| Request { prompt: r.clone(), max_new_tokens: 6, sampling, seed: i as u64 })
        .collect();
    let replies = decoder.generate(&[adapter], &requests, &[]).unwrap();
    let asked: Vec<ScoreRequest> = rows
        .into_iter()
        .map(|prompt| ScoreRequest { prompt, candidates: vec![vec![5], vec![6, 7], vec![8, 9, 10, 11]] })
        .collect();
    let scores = decoder.score(&[adapter], &asked).unwrap();
    vec![format!("{seen:?}"), format!("{teachers:?}"), format!("{replies:?}"), format!("{scores:?}")]
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let mut adapter =
        Adapter::init(decoder.architecture(), AdapterConfig::all_linear(5, 2.0), 1, "threads").unwrap();
    for (i, p) in adapter.params.iter_mut().enumerate() {
        *p += 0.05 * (i as f32 * 0.9).sin();
    }
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| everything(&decoder, &adapter))
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
}
