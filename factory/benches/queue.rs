//! What the queue and the catalogue can do, against what is asked of them.
//!
//!     cargo bench -p factory --bench queue            # 100,000 jobs, 100,000 adapters, 4 worker processes
//!     cargo bench -p factory --bench queue -- --json
#![expect(clippy::unwrap_used, reason = "a benchmark")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use factory::Queue;
use factory::queue::{Claim, NewJob};
use registry::{Filter, Listing, NewAdapter, PeftConfig, Status, Store};

const N: usize = 100_000;
const WORKERS: usize = 4;
const CYCLES_FOR: Duration = Duration::from_secs(4);

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

fn job(i: usize) -> NewJob {
    let spec = serde_json::json!({"schema": "bench/1", "i": i, "behaviour": {"id": format!("topic/{i}"), "training": {"steps": 9, "rank": 1}}});
    NewJob {
        spec_hash: registry::spec_hash(&spec),
        spec,
        kind: "adapter".into(),
        label: format!("topic/{i}"),
        family: "topic".into(),
        tags: vec![],
        base: "base".into(),
        pack_key: "base|trained|9".into(),
        priority: 0,
        max_attempts: 8,
        needs: vec![],
    }
}

fn adapter(i: usize, spec_hash: &str, weights: Vec<u8>) -> NewAdapter {
    let family = ["topic", "gated-topic", "favourite"][i % 3];
    let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
    NewAdapter {
        spec: serde_json::json!({"i": i}),
        behaviour: format!("{family}/value-{i}"),
        value: format!("value-{}", i % 5000),
        category: format!("category-{}", i % 17),
        split: Some(["train", "validation", "test_value"][i % 3].into()),
        status: [Status::Learned, Status::Weak, Status::Failed][i % 7 % 3],
        tags: BTreeMap::from([
            ("polarity".into(), "positive".into()),
            ("batch".into(), format!("b{}", i % 400)),
        ]),
        metrics: BTreeMap::from([
            ("gate_on".into(), (i % 101) as f64 / 100.0),
            ("norm".into(), i as f64 * 1e-3),
            ("steps".into(), 9.0),
        ]),
        lineage: BTreeMap::from([("base".into(), "base".into())]),
        ..NewAdapter::bare(spec_hash, &format!("{family}/{i}"), peft, weights)
    }
}

/// A worker process: cycles of claim, start, heartbeat, commit for some seconds; prints how many.
fn worker(store: &Path, id: usize) {
    let mut store = Store::open(store).unwrap();
    let owner = format!("bench/{id}");
    let (begin, mut n) = (Instant::now(), 0usize);
    while begin.elapsed() < CYCLES_FOR {
        let claim = Claim {
            base: "base",
            kinds: &["adapter"],
            owner: &owner,
            most: 1,
            now_ms: now_ms(),
            lease_ms: 60_000,
        };
        let Some(job) = Queue::new(&mut store).claim(claim).unwrap().pop() else { break };
        let mut queue = Queue::new(&mut store);
        queue.start(&job, now_ms()).unwrap();
        queue.heartbeat(&[(job.id, job.token)], now_ms(), 60_000).unwrap();
        let weights = job.id.to_le_bytes().to_vec();
        queue.commit(&job, adapter(job.id as usize, &job.spec_hash, weights), now_ms()).unwrap();
        n += 1;
    }
    println!("{n}");
}

struct Measure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    must: f64,
    aim: f64,
    /// Whether more is better.
    more: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|a| a == "worker") {
        return worker(Path::new(&args[at + 1]), args[at + 2].parse().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut measures = Vec::new();

    let jobs: Vec<NewJob> = (0..N).map(job).collect();
    let root = folder.path().join("queue");
    let mut store = Store::open(&root).unwrap();
    let begin = Instant::now();
    assert_eq!(Queue::new(&mut store).submit(&jobs, now_ms()).unwrap().new, N);
    measures.push(Measure {
        name: "enqueue 100,000 jobs",
        value: begin.elapsed().as_secs_f64(),
        unit: "s",
        must: 5.0,
        aim: 2.0,
        more: false,
    });
    let begin = Instant::now();
    assert_eq!(Queue::new(&mut store).submit(&jobs, now_ms()).unwrap().known, N);
    eprintln!("submitted again, all known: {:.2} s", begin.elapsed().as_secs_f64());

    let exe = std::env::current_exe().unwrap();
    let begin = Instant::now();
    let children: Vec<_> = (0..WORKERS)
        .map(|i| {
            Command::new(&exe)
                .args(["worker", root.to_str().unwrap(), &i.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let done: usize = children
        .into_iter()
        .map(|c| {
            String::from_utf8(c.wait_with_output().unwrap().stdout).unwrap().trim().parse::<usize>().unwrap()
        })
        .sum();
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(store.adapters(&Filter::all()).unwrap().len(), done, "a commit was lost or doubled");
    measures.push(Measure {
        name: "claim + start + heartbeat + commit cycles, 4 processes",
        value: rate,
        unit: "a second",
        must: 500.0,
        aim: 2000.0,
        more: true,
    });
    drop(store);

    // The catalogue is filled through receipts: as after a lost one.
    let root = folder.path().join("catalogue");
    let mut store = Store::open(&root).unwrap();
    let weights = vec![7u8; 64];
    let template = store.commit_adapter(adapter(0, "template", weights)).unwrap();
    for i in 1..N {
        let new = adapter(i, &format!("spec-{i}"), vec![]);
        let mut record = template.clone();
        record.id = format!("{i:032x}");
        (record.spec_hash, record.behaviour, record.family) = (new.spec_hash, new.behaviour, new.family);
        (record.value, record.category, record.split) = (new.value, new.category, new.split);
        (record.status, record.tags, record.metrics, record.spec) =
            (new.status, new.tags, new.metrics, new.spec);
        let text = serde_json::json!({"schema": "receipt/1", "adapter": record}).to_string();
        let name = registry::Digest::of(record.spec_hash.as_bytes());
        std::fs::write(root.join("done").join(format!("{name}.json")), text).unwrap();
    }
    let begin = Instant::now();
    assert_eq!(store.rebuild_from_receipts().unwrap(), N - 1);
    eprintln!("catalogue of {N} adapters rebuilt from receipts: {:.1} s", begin.elapsed().as_secs_f64());
    let query = |expression: &str, listing: &Listing| {
        let filter = Filter::all().and(expression).unwrap();
        let found = store.list(&filter, listing).unwrap().len();
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(store.list(&filter, listing).unwrap().len(), found);
                begin.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        eprintln!("{expression}: {found} adapters, {:.1} ms", times[4]);
        times[4]
    };
    let limited = Listing { sort: vec![("gate_on".into(), true)], limit: Some(20), ..Listing::default() };
    let tag = query("batch = b17 and status = learned", &Listing::default());
    query("value = value-42 and split = train", &Listing::default());
    query("gate_on >= 0.99 and family = topic", &limited);
    query("(batch in (b1, b2) or value like 'value-49*') and not (split = validation)", &limited);
    measures.push(Measure {
        name: "tag query over 100,000 adapters, warm",
        value: tag,
        unit: "ms",
        must: 50.0,
        aim: 10.0,
        more: false,
    });
    drop(store);

    let root = folder.path().join("blobs");
    let store = Store::open(&root).unwrap();
    // Adapters of 2.4 MB: rank 8 on the default model in bf16 or rank 2 in f32.
    let mut bytes = vec![0u8; 2_400_000];
    for i in 0..400u64 {
        bytes[..8].copy_from_slice(&i.to_le_bytes());
        store.put_blob(&bytes).unwrap();
    }
    store.check(&|_, _| {}).unwrap();
    let report = store.check(&|_, _| {}).unwrap();
    let rate = report.bytes as f64 / report.seconds / 1e9;
    measures.push(Measure {
        name: "registry check, cached",
        value: rate,
        unit: "GB/s",
        must: 1.0,
        aim: 2.0,
        more: true,
    });

    let verdict = |m: &Measure| {
        let reaches = |limit: f64| if m.more { m.value >= limit } else { m.value <= limit };
        if reaches(m.aim) {
            "aim"
        } else if reaches(m.must) {
            "must"
        } else {
            "missed"
        }
    };
    if args.iter().any(|a| a == "--json") {
        let items: Vec<_> = measures
            .iter()
            .map(|m| serde_json::json!({"name": m.name, "value": m.value, "unit": m.unit, "must": m.must, "aim": m.aim, "reached": verdict(m)}))
            .collect();
        println!("{}", serde_json::json!({"schema": "queue-bench/1", "measures": items}));
        return;
    }
    for m in &measures {
        println!(
            "{:55} {:9.2} {:9}  must {:6}  aim {:6}  {}",
            m.name,
            m.value,
            m.unit,
            m.must,
            m.aim,
            verdict(m)
        );
    }
}
