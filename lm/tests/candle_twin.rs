//! The same decoder composed of candle's differentiable operations: a second oracle of the hand-derived backward, in the
//! same process and on any machine. Tolerances: loss 1e-5, gradients 1e-4 relative to the tensor's largest entry.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use candle_core::{D, Device, IndexOp, Tensor, Var};
use candle_nn::ops::{rms_norm_slow, softmax};
use candle_nn::rotary_emb::rope_slow;
use lm::{Adapter, Checkpoint, Decoder, Loaded, Objective, Precision, Projection, Row, TrainRow};
use support::{assert_grad_close, formula_adapter, tiny_folder};

/// Frozen weights as plain tensors (so that candle tracks no gradient for them), adapters as variables.
struct Twin<'a> {
    loaded: &'a Loaded,
    adapters: Vec<(f64, BTreeMap<String, Var>)>,
}

impl Twin<'_> {
    fn weight(&self, name: &str) -> Tensor {
        let t = self.loaded.checkpoint.tensor(name).unwrap();
        Tensor::from_vec(t.data, t.shape, &Device::Cpu).unwrap()
    }

    /// `x W^T + sum s (x A^T) B^T`.
    fn linear(&self, x: &Tensor, projection: Projection, layer: usize) -> Tensor {
        let path = projection.module_path(layer);
        let mut y = x.matmul(&self.weight(&format!("{path}.weight")).t().unwrap()).unwrap();
        for (scaling, vars) in &self.adapters {
            let part = |which: &str| vars[&format!("{path}.lora_{which}.weight")].t().unwrap();
            let low_rank = x.matmul(&part("A")).unwrap().matmul(&part("B")).unwrap();
            y = (y + (low_rank * *scaling).unwrap()).unwrap();
        }
        y
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = self.loaded.checkpoint.architecture.final_norm.eps as f32;
        rms_norm_slow(x, &self.weight(name), eps).unwrap()
    }

    fn attention(&self, x: &Tensor, layer: usize) -> Tensor {
        let model = &self.loaded.checkpoint.architecture;
        let (c, base) = (&model.layers[layer].attention, model.ropes[0].base);
        let (t, dim, half) = (x.dim(0).unwrap(), c.head_dim, c.head_dim / 2);
        let angles: Vec<f32> = (0..t * half)
            .map(|i| ((i / half) as f64 / base.powf((i % half) as f64 / half as f64)) as f32)
            .collect();
        let angles = Tensor::from_vec(angles, (t, half), &Device::Cpu).unwrap();
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let heads = |y: Tensor, n: usize| {
            y.reshape((1, t, n, dim)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let project = |p, n| heads(self.linear(x, p, layer), n);
        let q = rope_slow(&project(Projection::QProj, c.heads), &cos, &sin).unwrap();
        let k = rope_slow(&project(Projection::KProj, c.kv_heads), &cos, &sin).unwrap();
        let v = project(Projection::VProj, c.kv_heads);
        let group = c.heads / c.kv_heads;
        let spread: Vec<u32> = (0..c.heads).map(|h| (h / group) as u32).collect();
        let spread = Tensor::new(spread, &Device::Cpu).unwrap();
        let (k, v) = (k.index_select(&spread, 1).unwrap(), v.index_select(&spread, 1).unwrap());
        let mask: Vec<f32> =
            (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (1, 1, t, t), &Device::Cpu).unwrap();
        let k = k.transpose(2, 3).unwrap().contiguous().unwrap();
        let scores = (q.matmul(&k).unwrap() / (dim as f64).sqrt()).unwrap().broadcast_add(&mask).unwrap();
        let mixed = softmax(&scores, D::Minus1).unwrap().matmul(&v).unwrap();
        let mixed = mixed.transpose(1, 2).unwrap().reshape((t, c.heads * dim)).unwrap();
        self.linear(&mixed, Projection::OProj, layer)
    }

    /// Sum of the row's cross-entropies at its label positions.
    fn loss(&self, row: &TrainRow) -> Tensor {
        let tokens = &row.row.tokens;
        let inputs = Tensor::new(&tokens[..tokens.len() - 1], &Device::Cpu).unwrap();
        let mut hidden = self.weight("model.embed_tokens.weight").index_select(&inputs, 0).unwrap();
        for layer in 0..self.loaded.checkpoint.architecture.layers.len() {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let normed = self.norm(&hidden, &name("input_layernorm"));
            hidden = (hidden + self.attention(&normed, layer)).unwrap();
            let normed = self.norm(&hidden, &name("post_attention_layernorm"));
            let gate = self.linear(&normed, Projection::GateProj, layer).silu().unwrap();
            let up = self.linear(&normed, Projection::UpProj, layer);
            let down = self.linear(&(gate * up).unwrap(), Projection::DownProj, layer);
            hidden = (hidden + down).unwrap();
        }
        let labels = hidden.i(row.completion_start - 1..).unwrap();
        let normed = self.norm(&labels, "model.norm.weight");
        let logits = normed.matmul(&self.weight("model.embed_tokens.weight").t().unwrap()).unwrap();
        let targets = Tensor::new(&tokens[row.completion_start..], &Device::Cpu).unwrap();
        let mean = candle_nn::loss::cross_entropy(&logits, &targets).unwrap();
        (mean * row.label_tokens() as f64).unwrap()
    }
}

fn variables(adapter: &Adapter) -> BTreeMap<String, Var> {
    adapter
        .tensors()
        .into_iter()
        .map(|(name, (shape, data))| {
            (name, Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap())
        })
        .collect()
}

#[test]
fn losses_and_gradients_equal_those_of_the_composed_graph() {
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let config = decoder.architecture();
    // A frozen diff below, the trained adapter above, as a DIT adapter has it; ranks and scalings differ.
    let adapters = [formula_adapter(config, 3, 6.0, 0.4, 0.08), formula_adapter(config, 2, 3.0, 1.1, 0.05)];
    let refs: Vec<&Adapter> = adapters.iter().collect();
    // Three rows of one prompt, which the engine computes once, and one of another.
    let token = |i: usize| (i * 37 % config.vocab_size) as u32;
    let rows: Vec<TrainRow> = (0..4)
        .map(|r| {
            let prompt = (0..7).map(|i| token(i + if r == 3 { 50 } else { 0 }));
            let completion = (0..4 + r).map(|i| token(11 * r + i + 20));
            TrainRow {
                row: Row::with_adapters(prompt.chain(completion).collect(), vec![0, 1]),
                completion_start: 7,
                objective: Objective::CrossEntropy,
                weight: 0.1 + r as f32 * 0.05,
            }
        })
        .collect();
    let ours = decoder.loss_and_grads(&refs, &rows, &[1]).unwrap();

    let scaled = |a: &Adapter| (f64::from(a.config().scaling()), variables(a));
    let twin = Twin { loaded: &loaded, adapters: adapters.iter().map(scaled).collect() };
    let losses: Vec<Tensor> = rows.iter().map(|r| twin.loss(r)).collect();
    for (theirs, ours) in losses.iter().zip(&ours.row_losses) {
        let theirs = f64::from(theirs.to_scalar::<f32>().unwrap());
        assert!((theirs - ours).abs() < 1e-5 * theirs.abs().max(1.0), "{theirs} {ours}");
    }
    let weighted = losses.iter().zip(&rows).map(|(l, r)| (l * f64::from(r.weight)).unwrap());
    let total = weighted.reduce(|a, b| (a + b).unwrap()).unwrap();
    let theirs = total.backward().unwrap();
    let mut shaped = adapters[1].clone();
    shaped.params.copy_from_slice(&ours.grads[&1]);
    for (name, (_, ours)) in shaped.tensors() {
        let theirs = theirs.get(&twin.adapters[1].1[&name]).unwrap();
        let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(theirs.iter().any(|v| *v != 0.0), "{name}: candle gives no gradient");
        assert_grad_close(&name, &ours, &theirs, 1e-4);
    }
}
