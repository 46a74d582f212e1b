//! `doctor`: what this machine and this store offer.

use lm::{BUILT_IN, BuiltIn, Precision, product_rate, simd_level};
use serde_json::json;

use crate::context::Context;
use crate::error::Result;
use crate::output::{print, print_json};

pub(crate) fn run(context: &Context<'_>) -> Result {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let store = context.store()?.stats()?;
    let cache = Context::cache_path();
    let models: Vec<(&BuiltIn, bool)> = BUILT_IN.iter().map(|b| (b, b.cached(&cache).is_some())).collect();
    let rates: std::collections::BTreeMap<String, f64> = [Precision::F32, Precision::fastest()]
        .into_iter()
        .map(|p| (format!("{p:?}").to_lowercase(), product_rate(p) / 1e9))
        .collect();
    if context.global.json {
        let built_in: Vec<_> = models
            .iter()
            .map(|(b, cached)| json!({"names": b.names, "hub": b.hub, "bytes": b.weights.bytes, "cached": cached}))
            .collect();
        return print_json(
            &json!({"schema": "doctor/2", "threads": threads, "simd": simd_level().name(), "product_gflops": rates, "precision": Precision::fastest(),
            "store": context.store_path(), "adapters": store.adapters, "built_in_models": built_in}),
        );
    }
    print(&format!(
        "threads            {threads}\nvector level       {}\ndefault precision  {:?}\nmatrix products    {}\nstore              {} ({} adapters)\nbuilt-in models    {}",
        simd_level().name(),
        Precision::fastest(),
        rates.iter().map(|(p, r)| format!("{r:.0} GFLOP/s in {p}")).collect::<Vec<_>>().join(", "),
        context.store_path().display(),
        store.adapters,
        models
            .iter()
            .map(|(b, cached)| {
                let (names, hub) = (b.names.join(" or "), b.hub);
                format!("{names} ({hub}): {}", if *cached { "in the cache" } else { "not fetched yet" })
            })
            .collect::<Vec<_>>()
            .join("\n                   ")
    ))
}
