//! A description in words, for people who want to know what was read of their model.

use super::{Activation, Architecture, QkNorm, rope::Scaling};

impl Architecture {
    /// What this decoder has beside a plain one's parts, each in a few words (of what all layers have, as the first has it); empty for
    /// a plain Llama.
    pub fn beyond_llama(&self) -> Vec<String> {
        let mut out = Vec::new();
        let layers = &self.layers;
        let some = |n: usize| {
            if n == layers.len() { String::new() } else { format!(" on {n} of {} layers", layers.len()) }
        };
        let count = |of: &dyn Fn(usize) -> bool| (0..layers.len()).filter(|i| of(*i)).count();
        let first = &layers[0];
        for (there, what) in [
            (first.attention.qkv_bias, "biases on queries, keys and values"),
            (first.attention.out_bias, "a bias on what attention writes"),
            (first.mlp.bias, "biases in the feed-forward layer"),
        ] {
            if there {
                out.push(what.to_owned());
            }
        }
        if first.attention.scale != super::plain_scale(first.attention.head_dim) {
            out.push(format!("scores times {:.4}", first.attention.scale));
        }
        match first.attention.qk_norm {
            Some(QkNorm::PerHead) => out.push("norms on each head's queries and keys".to_owned()),
            Some(QkNorm::Full) => out.push("norms on all queries and all keys".to_owned()),
            None => {}
        }
        match (first.norms.before, first.norms.after) {
            (true, true) => out.push("norms before and after attention and feed-forward".to_owned()),
            (false, true) => out.push("norms after attention and feed-forward".to_owned()),
            _ => {}
        }
        if let Some(window) = layers.iter().find_map(|l| l.attention.window) {
            let n = count(&|i| layers[i].attention.window.is_some());
            out.push(format!("a window of {window} tokens{}", some(n)));
        }
        let turned = count(&|i| layers[i].attention.rope.is_some());
        if turned < layers.len() {
            out.push(format!("positions{}", some(turned)));
        }
        if let Some(cap) = first.attention.soft_cap {
            out.push(format!("scores capped at {cap}"));
        }
        if let Some(cap) = self.final_cap {
            out.push(format!("logits capped at {cap}"));
        }
        if self.ropes.len() > 1 {
            let bases: Vec<String> = self.ropes.iter().map(|r| r.base.to_string()).collect();
            out.push(format!("rotary bases {}", bases.join(" and ")));
        }
        for rope in &self.ropes {
            match &rope.scaling {
                Scaling::None => {}
                Scaling::Linear { factor } => out.push(format!("rotary scaling linear, {factor} times")),
                Scaling::Llama3 { factor, .. } => out.push(format!("rotary scaling llama3, {factor} times")),
                Scaling::Yarn { factor, .. } => out.push(format!("rotary scaling yarn, {factor} times")),
                Scaling::Divisors(_) => out.push("rotary frequencies of its own".to_owned()),
            }
        }
        if first.mlp.activation == Activation::GeluTanh {
            out.push("GELU gates".to_owned());
        }
        if self.embedding_scale != 1.0 {
            out.push(format!("embeddings times {:.2}", self.embedding_scale));
        }
        out
    }
}
