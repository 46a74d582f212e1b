//! `doctor`: what this machine and this store offer.

use lm::{Precision, product_rate, simd_level};
use serde_json::json;

use crate::context::Context;
use crate::error::Result;
use crate::output::{print, print_json};

pub(crate) fn run(context: &Context<'_>) -> Result {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let store = context.store()?.stats()?;
    let cached = Context::cache_path().join("SmolLM2-135M-Instruct.Q4_1.gguf").exists();
    let rates: std::collections::BTreeMap<String, f64> = [Precision::F32, Precision::fastest()]
        .into_iter()
        .map(|p| (format!("{p:?}").to_lowercase(), product_rate(p) / 1e9))
        .collect();
    if context.global.json {
        return print_json(
            &json!({"schema": "doctor/1", "threads": threads, "simd": simd_level().name(), "product_gflops": rates, "precision": Precision::fastest(),
            "store": context.store_path(), "adapters": store.adapters, "default_model_cached": cached}),
        );
    }
    print(&format!(
        "threads            {threads}\nvector level       {}\ndefault precision  {:?}\nmatrix products    {}\nstore              {} ({} adapters)\ndefault model      {}",
        simd_level().name(),
        Precision::fastest(),
        rates.iter().map(|(p, r)| format!("{r:.0} GFLOP/s in {p}")).collect::<Vec<_>>().join(", "),
        context.store_path().display(),
        store.adapters,
        if cached { "in the cache" } else { "not fetched yet" }
    ))
}
