//! Our side of `python3 bench/vs_peft`: reads one JSON task a line from stdin, answers each with one JSON line.
//! Task and answer fields are those of `bench/vs_peft/peer.py`, which answers the same tasks with transformers and PEFT.
#![expect(clippy::print_stdout, reason = "the protocol is lines on stdout")]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::time::Instant;

use lm::source::{DEFAULT_MODEL, SourceOptions, locate};
use lm::{
    AdamWConfig, Adapter, AdapterConfig, Architecture, Batch, Checkpoint, Cut, Decoder, Error, Objective,
    Precision, Projection, Request, ResidualAt, Result, Row, Sampling, Schedule, ScoreRequest, TrainRow,
    Trainer, Want, executed_flops, product_rate,
};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Task {
    /// Writes the adapter that both sides start from.
    Init { rank: usize, path: PathBuf },
    /// Trains `adapters` adapters on equal shares of `rows`.
    Train(Train),
    /// Greedy replies of exactly `new_tokens` tokens.
    Generate { precision: Precision, prompts: Vec<Vec<u32>>, new_tokens: usize },
    /// Residual stream at `layers`, all positions.
    Collect { precision: Precision, rows: Vec<Vec<u32>>, layers: Vec<usize> },
    /// Log-probability of every candidate after every prompt.
    Score { precision: Precision, prompts: Vec<Vec<u32>>, candidates: Vec<Vec<u32>>, one_by_one: bool },
    /// Rate of the packed product on all cores.
    Gemm { precision: Precision },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Train {
    precision: Precision,
    rank: usize,
    adapters: usize,
    rows: Vec<Vec<u32>>,
    completion_start: usize,
    steps: usize,
    learning_rate: f64,
    start: PathBuf,
}

/// The model's decoders, made when first asked for.
struct Models {
    path: PathBuf,
    decoders: BTreeMap<String, Decoder>,
}

impl Models {
    fn get(&mut self, precision: Precision) -> Result<&Decoder> {
        let name = format!("{precision:?}");
        if !self.decoders.contains_key(&name) {
            self.decoders
                .insert(name.clone(), Decoder::new(&Checkpoint::load(&self.path)?.checkpoint, precision)?);
        }
        Ok(&self.decoders[&name])
    }
}

fn main() -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let home = PathBuf::from(variable("HOME").unwrap_or_else(|| ".".into()));
    let path = locate(
        &SourceOptions {
            model: std::env::args().nth(1).unwrap_or_else(|| DEFAULT_MODEL.into()),
            cache_dir: variable("LORAFAB_CACHE").map_or_else(|| home.join(".cache/lorafab"), PathBuf::from),
            hub_cache: home.join(".cache/huggingface/hub"),
            hub_endpoint: variable("HF_ENDPOINT"),
            certificates: vec![],
            hub_token: None,
            offline: false,
            python: variable("LORAFAB_PYTHON").unwrap_or_else(|| "python3".into()),
        },
        &mut |_| {},
    )?;
    let mut models = Models { path: path.clone(), decoders: BTreeMap::new() };
    println!(
        "{}",
        json!({"model": path, "fastest": Precision::fastest(), "simd": lm::simd_level().name(), "threads": rayon::current_num_threads()})
    );
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Error::Request(e.to_string()))?;
        let task = serde_json::from_str(&line).map_err(|e| Error::Request(format!("task {line}: {e}")))?;
        let mut answer = run(&mut models, task)?;
        answer["peak_rss_bytes"] = json!(peak_rss_bytes());
        println!("{answer}");
    }
    Ok(())
}

fn run(models: &mut Models, task: Task) -> Result<Value> {
    match task {
        Task::Init { rank, path } => {
            let config = AdapterConfig::all_linear(rank, rank as f32);
            let adapter =
                Adapter::init(models.get(Precision::fastest())?.architecture(), config, 1, "vs_peft")?;
            std::fs::write(&path, adapter.to_safetensors()?).map_err(|e| Error::Request(e.to_string()))?;
            Ok(json!({}))
        }
        Task::Train(task) => train(models.get(task.precision)?, &task),
        Task::Generate { precision, prompts, new_tokens } => {
            let decoder = models.get(precision)?;
            let requests: Vec<Request> = prompts
                .into_iter()
                .map(|tokens| Request {
                    prompt: Row::plain(tokens),
                    max_new_tokens: new_tokens,
                    sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
                    seed: 0,
                })
                .collect();
            let begin = Instant::now();
            let replies = decoder.generate(&[], &requests, &[])?;
            let tokens: usize = replies.iter().map(|r| r.tokens.len()).sum();
            let first: Vec<&Vec<u32>> = replies.iter().map(|r| &r.tokens).collect();
            Ok(json!({"seconds": begin.elapsed().as_secs_f64(), "tokens": tokens, "replies": first}))
        }
        Task::Collect { precision, rows, layers } => {
            let decoder = models.get(precision)?;
            let at = |n: usize, layer: usize| ResidualAt { layer, positions: (0..n).collect() };
            let wants: Vec<Want> = rows
                .iter()
                .map(|r| Want { logits: vec![], residual: layers.iter().map(|&l| at(r.len(), l)).collect() })
                .collect();
            let tokens: usize = rows.iter().map(Vec::len).sum();
            let batch = Batch { adapters: vec![], rows: rows.into_iter().map(Row::plain).collect() };
            let begin = Instant::now();
            let seen = decoder.forward(&batch, &wants)?;
            Ok(json!({"seconds": begin.elapsed().as_secs_f64(), "tokens": tokens, "rows": seen.len()}))
        }
        Task::Score { precision, prompts, candidates, one_by_one } => {
            let decoder = models.get(precision)?;
            let mut requests = Vec::new();
            for prompt in &prompts {
                let groups: Vec<Vec<Vec<u32>>> = if one_by_one {
                    candidates.iter().map(|c| vec![c.clone()]).collect()
                } else {
                    vec![candidates.clone()]
                };
                requests.extend(
                    groups
                        .into_iter()
                        .map(|candidates| ScoreRequest { prompt: Row::plain(prompt.clone()), candidates }),
                );
            }
            let begin = Instant::now();
            let scores: Vec<f64> = if one_by_one {
                let each = requests.par_chunks(1).map(|request| decoder.score(&[], request));
                each.collect::<Result<Vec<_>>>()?.into_iter().flatten().flatten().collect()
            } else {
                decoder.score(&[], &requests)?.into_iter().flatten().collect()
            };
            Ok(
                json!({"seconds": begin.elapsed().as_secs_f64(), "tokens": scores.len(), "scores": scores[..scores.len().min(candidates.len())]}),
            )
        }
        Task::Gemm { precision } => Ok(json!({"gflops": product_rate(precision) / 1e9})),
    }
}

fn train(decoder: &Decoder, task: &Train) -> Result<Value> {
    let bytes = std::fs::read(&task.start).map_err(|e| Error::Request(e.to_string()))?;
    let config = AdapterConfig::all_linear(task.rank, task.rank as f32);
    let schedule = Schedule {
        learning_rate: task.learning_rate,
        warmup_steps: 0,
        total_steps: task.steps,
        final_share: 1.0,
    };
    let mut trainers: Vec<Trainer> = (0..task.adapters)
        .map(|_| {
            let adapter = Adapter::from_safetensors(decoder.architecture(), config.clone(), &bytes)?;
            Ok(Trainer::new(adapter, AdamWConfig::default(), schedule))
        })
        .collect::<Result<_>>()?;
    let share = task.rows.len() / task.adapters;
    let labels: usize = task.rows[..share].iter().map(|r| r.len() - task.completion_start).sum();
    let rows: Vec<TrainRow> = task
        .rows
        .iter()
        .enumerate()
        .map(|(i, tokens)| TrainRow {
            row: Row::with_adapters(tokens.clone(), vec![i / share]),
            completion_start: task.completion_start,
            objective: Objective::CrossEntropy,
            weight: 1.0 / labels as f32,
        })
        .collect();
    let trainable: Vec<usize> = (0..task.adapters).collect();
    let cut = if task.adapters == 1 { Cut::Halves } else { Cut::Whole };
    let (executed, begin) = (executed_flops(), Instant::now());
    let mut losses = Vec::new();
    for _ in 0..task.steps {
        let adapters: Vec<&Adapter> = trainers.iter().map(|t| &t.adapter).collect();
        let result = decoder.loss_and_grads_cut(&adapters, &rows, &trainable, cut)?;
        for (trainer, gradient) in trainers.iter_mut().zip(result.grads.values()) {
            trainer.apply(gradient)?;
        }
        losses.push(result.row_losses[..share].iter().sum::<f64>() / labels as f64);
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(json!({
        "seconds": seconds,
        "tokens": task.steps * task.rows.iter().map(Vec::len).sum::<usize>(),
        "losses": losses,
        "executed_flops": executed_flops() - executed,
        "useful_flops": task.steps as u64 * rows.iter().map(|r| useful_flops(decoder.architecture(), task.rank, r)).sum::<u64>(),
    }))
}

/// The least that a LoRA step costs a row: `4 N` a token, the head forward and backward on label positions, three times
/// the causal attention, and `6 P` for the adapter. The last token predicts nothing and is free.
fn useful_flops(config: &Architecture, rank: usize, row: &TrainRow) -> u64 {
    let tokens = row.row.tokens.len() - 1;
    let sizes = Projection::ALL.map(|p| config.features(0, p));
    let linear: usize = sizes.iter().map(|(i, o)| i * o).sum();
    let lora: usize = sizes.iter().map(|(i, o)| rank * (i + o)).sum();
    let attention = 3 * 4 * config.layers[0].attention.query_width() * tokens * (tokens + 1) / 2;
    // Nothing below the first layer's q, k and v is trained: they need no input gradient.
    let spared = sizes[..3].iter().map(|(i, o)| 2 * i * o).sum::<usize>() * tokens;
    let layers = config.layers.len() * (tokens * (4 * linear + 6 * lora) + attention) - spared;
    (layers + 4 * row.label_tokens() * config.hidden_size * config.vocab_size) as u64
}

fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
