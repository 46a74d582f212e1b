//! Interventions as data: what is refused and how, that a spec from JSON equals the same work by hand bit for bit, that plans
//! run together do not see each other, and that no damaged spec does harm.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use lm::{
    Adapter, AdapterConfig, BaseModel, Batch, Message, Outline, Precision, Request, ResidualAt, Role, Row,
    Sampling, Want, rng,
};
use oracle_posttrain::intervention::{Cap, Outputs, Plan, Spec, SpecError, Surroundings, check, run};
use oracle_posttrain::{ActivationKind, Collector, Form, Lens, ask, prompt_row};
use rand::Rng;
use readers::Scaling;
use serde_json::{Value, json};

static NEVER: AtomicBool = AtomicBool::new(false);

fn tiny() -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    BaseModel::load(&folder, Precision::F32).unwrap()
}

fn adapters(base: &BaseModel) -> BTreeMap<String, Adapter> {
    let one = |name: &str| {
        let plain = Adapter::init(&base.architecture, AdapterConfig::all_linear(2, 4.0), 1, name).unwrap();
        let mut noisy = plain.clone();
        let mut stream = rng::stream(2, "test", name);
        noisy.params.iter_mut().for_each(|p| *p += 0.05 * rng::normal(&mut stream));
        (name.to_owned(), noisy)
    };
    BTreeMap::from([one("target"), one("oracle")])
}

fn planned(base: &Outline, spec: &Value, cap: Cap) -> Result<Plan, SpecError> {
    let known: BTreeSet<String> = ["target", "oracle"].map(str::to_owned).into();
    let spec = Spec::parse(&spec.to_string())?;
    check(&spec, Surroundings { outline: base, adapters: &known, vectors: &BTreeMap::new(), cap })
}

fn outputs(base: &BaseModel, specs: &[Value]) -> Vec<Outputs> {
    let plans: Vec<Plan> = specs.iter().map(|s| planned(base, s, Cap::default()).unwrap()).collect();
    let adapters = adapters(base);
    run(
        base,
        &plans.iter().collect::<Vec<_>>(),
        &adapters.iter().map(|(k, a)| (k.clone(), a)).collect(),
        &[],
        &NEVER,
    )
    .unwrap()
}

/// An oracle asked about the difference that an adapter makes.
fn oracle_spec() -> Value {
    json!({"v": 1,
        "inputs": {"ctx": {"chat": {"user": "go on"}}, "question": {"question": {"layers": [1], "slots": 3, "text": "what is it"}}},
        "steps": [
            {"op": "forward", "id": "t", "model": {"adapters": ["target"]}, "input": "ctx", "collect": [{"id": "h", "depth": 0.5, "pos": {"last": 3}}]},
            {"op": "forward", "id": "b", "input": "ctx", "collect": [{"id": "h0", "layer": 1, "site": "resid_post", "pos": {"last": 3}}]},
            {"op": "sub", "id": "d", "a": "h", "b": "h0"},
            {"op": "mean", "id": "m", "of": ["d"], "over": "positions"},
            {"op": "mean", "id": "both", "of": ["h", "h0"], "over": "ids"},
            {"op": "scale", "id": "twice", "a": "d", "coef": 2.0},
            {"op": "unembed_topk", "id": "lens", "a": "m", "k": 4},
            {"op": "generate", "id": "answer", "model": {"adapters": ["oracle"]}, "input": "question",
             "inject": [{"layer": 1, "pos": "slots", "src": "d", "mode": "add_norm_matched", "coef": 1.5}], "sample": {"t": 1.0, "k": 50, "p": 0.95, "max": 12, "seed": 7}}
        ], "out": ["d", "m", "both", "twice"]})
}

#[test]
fn an_oracle_from_json_equals_the_same_work_by_hand_bit_for_bit() {
    let base = tiny();
    let named = adapters(&base);
    let found = outputs(&base, &[oracle_spec()]).remove(0);

    let tokens = base
        .chat
        .encode(&base.tokenizer, &[Message::new(Role::System, ""), Message::new(Role::User, "go on")], true)
        .unwrap();
    let n = tokens.len();
    let want =
        Want { logits: vec![], residual: vec![ResidualAt { layer: 1, positions: (n - 3..n).collect() }] };
    let rows = vec![Row::with_adapters(tokens.clone(), vec![0]), Row::plain(tokens)];
    let batch = Batch { adapters: vec![&named["target"]], rows };
    let seen = base.decoder.forward(&batch, &[want.clone(), want]).unwrap();
    let (h, h0) = (&seen[0].residual[0], &seen[1].residual[0]);
    let zip = |f: fn(f32, f32) -> f32| -> Vec<Vec<f32>> {
        h.iter().zip(h0).map(|(a, b)| a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()).collect()
    };
    let d = zip(|a, b| a - b);
    assert!(d.iter().flatten().any(|x| *x != 0.0));
    assert_eq!(found.vectors["d"], d);
    assert_eq!(found.vectors["both"], zip(f32::midpoint));
    assert_eq!(found.vectors["twice"], zip(|a, b| (a - b) * 2.0));
    let mean: Vec<f32> = (0..d[0].len()).map(|i| (d[0][i] + d[1][i] + d[2][i]) / 3.0).collect();
    assert_eq!(found.vectors["m"], std::slice::from_ref(&mean));
    assert_eq!(found.tokens["lens"], base.decoder.unembed_topk(&[mean], 4).unwrap());

    let plain = Collector {
        layers: vec![1],
        prompts: vec![],
        drawn: 0,
        asked: 0,
        last: 3,
        kind: ActivationKind::Diff,
        coefficient: 1.5,
        noise: 0.0,
        from_start: false,
        scaling: Scaling::Whitened,
        form: Form::default(),
    };
    let prompt = prompt_row(&base, &[1], &plain, &d, "what is it", Some(0)).unwrap();
    let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 0.95 };
    let request = Request { prompt, max_new_tokens: 12, sampling, seed: 7 };
    let reply = base.decoder.generate(&[&named["oracle"]], &[request], base.stop()).unwrap();
    assert_eq!(found.replies["answer"], base.tokenizer.decode(&reply[0].tokens).unwrap());
}

/// The oracle's own way of asking, and the intervention that says the same.
#[test]
fn a_question_as_a_spec_gets_the_answer_of_the_oracle_itself() {
    for scaling in [Scaling::Whitened, Scaling::Raw] {
        a_question_is_asked_both_ways(scaling);
    }
}

fn a_question_is_asked_both_ways(scaling: Scaling) {
    let base = tiny();
    let named = adapters(&base);
    let collector = Collector {
        layers: vec![0, 2],
        prompts: ["one", "two", "three"].map(str::to_owned).to_vec(),
        drawn: 2,
        asked: 2,
        last: 3,
        kind: ActivationKind::Diff,
        coefficient: 2.0,
        noise: 0.0,
        from_start: false,
        scaling,
        form: Form::default(),
    };
    let shown = collector.collect(&base, &[&named["target"], &named["oracle"]], 3).unwrap();
    let lens = Lens::over(&base, collector, &shown.iter().collect::<Vec<_>>());
    let question = |text: &str| {
        let spec = lens.spec("target", "oracle", Some("0".repeat(64).as_str()), text, 12);
        Spec::parse(&serde_json::to_string(&spec).unwrap()).unwrap()
    };
    let file = lens.to_safetensors().unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let stored: BTreeMap<String, Vec<Vec<f32>>> = question("")
        .vectors
        .iter()
        .map(|(id, stored)| {
            let tensor = file.tensor(&stored.tensor).unwrap();
            let values: Vec<f32> =
                tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let rows: Vec<Vec<f32>> =
                values.chunks(base.architecture.hidden_size).map(<[f32]>::to_vec).collect();
            let (a, b) = stored.rows.unwrap();
            (id.clone(), rows[a..b].to_vec())
        })
        .collect();
    let counts = stored.iter().map(|(id, v)| (id.clone(), v.len())).collect();
    let known: BTreeSet<String> = named.keys().cloned().collect();
    let around = Surroundings { outline: &base, adapters: &known, vectors: &counts, cap: Cap::default() };
    let adapters = named.iter().map(|(k, a)| (k.clone(), a)).collect();
    let mut spoken = 0;
    for text in ["what is it", "who are you", "say a word", "why", "name the topic", "tell me"] {
        let expected = ask(&base, &lens, &named["target"], &named["oracle"], text, 12).unwrap();
        let plan = check(&question(text), around).unwrap();
        let found = run(&base, &[&plan], &adapters, &[&stored], &NEVER).unwrap();
        assert_eq!(found[0].replies["answer"].trim(), expected, "{text}");
        spoken += usize::from(!expected.is_empty());
    }
    assert!(spoken > 0, "all replies are empty: nothing was compared");
}

#[test]
fn plans_run_together_do_not_see_each_other() {
    let base = tiny();
    let other = json!({"v": 1, "inputs": {"x": {"tokens": [5, 6, 7]}},
        "steps": [{"op": "forward", "id": "f", "model": {"adapters": ["oracle"]}, "input": "x", "collect": [{"id": "h", "layer": 0}]},
                  {"op": "forward", "id": "g", "input": "x", "collect": [{"id": "r", "layer": 2}], "inject": [{"layer": 1, "pos": {"at": [2]}, "src": "s", "mode": "replace"}]}],
        "out": ["r"]});
    let mut other = other;
    other["steps"]
        .as_array_mut()
        .unwrap()
        .insert(1, json!({"op": "mean", "id": "s", "of": ["h"], "over": "positions"}));
    let together = outputs(&base, &[other.clone(), oracle_spec(), other.clone()]);
    assert_eq!(together[0], outputs(&base, &[other])[0]);
    assert_eq!(together[0], together[2]);
    assert_eq!(together[1], outputs(&base, &[oracle_spec()])[0]);
}

#[test]
fn a_value_that_is_divided_by_nothing_is_refused_by_its_step_and_a_run_can_be_stopped() {
    let base = tiny();
    let step = |scale: Value| {
        json!({"v": 1, "inputs": {"x": {"tokens": [5, 6, 7]}}, "out": ["z"], "steps": [
            {"op": "forward", "id": "f", "input": "x", "collect": [{"id": "h", "layer": 0}]},
            {"op": "sub", "id": "zero", "a": "h", "b": "h"}, scale]})
    };
    let none = BTreeMap::new();
    for scale in [
        json!({"op": "scale", "id": "z", "a": "h", "per": "zero"}),
        json!({"op": "scale", "id": "z", "a": "zero", "per": "zero"}),
    ] {
        let plan = planned(&base, &step(scale), Cap::default()).unwrap();
        let error = run(&base, &[&plan], &none, &[], &NEVER).unwrap_err().to_string();
        assert!(error.contains("steps[2]: \"z\" holds a value that is not finite"), "{error}");
    }
    let plan = planned(&base, &oracle_spec(), Cap::default()).unwrap();
    let stopped = AtomicBool::new(true);
    assert!(matches!(run(&base, &[&plan], &none, &[], &stopped), Err(lm::Error::Interrupted)));
}

#[test]
fn the_digest_is_that_of_what_is_computed() {
    let base = tiny();
    let digest = |spec: &Value| planned(&base, spec, Cap::default()).unwrap().digest().to_owned();
    let own = digest(&oracle_spec());
    let mut same = oracle_spec();
    same["steps"][0]["collect"][0] = json!({"id": "h", "layer": 1, "pos": {"last": 3}});
    same["steps"][4]["over"] = json!("ids");
    same["inputs"]["ctx"]["chat"]["system"] = json!("");
    assert_eq!(digest(&same), own, "a default, or a depth, written out");
    for (path, value) in [
        ("/inputs/ctx/chat/user", json!("go off")),
        ("/steps/0/collect/0/depth", json!(0.0)),
        ("/steps/5/coef", json!(2.5)),
        ("/steps/7/sample/seed", json!(8)),
        ("/steps/7/inject/0/mode", json!("add")),
    ] {
        let mut changed = oracle_spec();
        *changed.pointer_mut(path).unwrap() = value;
        assert_ne!(digest(&changed), own, "{path}");
    }
    let text = "v = 1\nout = [\"h\"]\n[inputs.x]\ntokens = [1, 2]\n[[steps]]\nop = \"forward\"\nid = \"f\"\ninput = \"x\"\ncollect = [{ id = \"h\", layer = 0 }]\n";
    let json = json!({"v": 1, "out": ["h"], "inputs": {"x": {"tokens": [1, 2]}}, "steps": [{"op": "forward", "id": "f", "input": "x", "collect": [{"id": "h", "layer": 0}]}]});
    assert_eq!(Spec::parse(text).unwrap(), Spec::parse(&json.to_string()).unwrap());
}

#[test]
fn every_refusal_names_its_field() {
    let base = tiny();
    let change = |path: &str, value: Value| {
        let mut spec = oracle_spec();
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        match key.parse::<usize>() {
            Ok(i) => parent[i] = value,
            Err(_) => parent[key] = value,
        }
        planned(&base, &spec, Cap::default()).unwrap_err().to_string()
    };
    for (path, value, said) in [
        ("/v", json!(2), "v: is 2"),
        ("/color", json!("red"), "color: unknown field `color`"),
        ("/steps/0/op", json!("exec"), "steps[0].op: \"exec\" is no verb"),
        ("/steps/0/code", json!("import os"), "steps[0].code: unknown field `code`"),
        ("/steps/0/collect/0/site", json!("attn"), "steps[0].collect[0].site: unknown variant"),
        ("/steps/0/collect/0/depth", json!(1.0), "steps[0].collect[0].depth: is 1"),
        ("/steps/0/collect/0/layer", json!(1), "steps[0].collect[0]: needs a layer or a depth"),
        (
            "/steps/1/collect/0/layer",
            json!(3),
            "steps[1].collect[0].layer: is 3; the model has blocks 0 to 2",
        ),
        ("/steps/0/collect/0/pos", json!({"last": 400}), "steps[0].collect[0].pos: asks for the last 400"),
        ("/steps/0/collect/0/pos", json!({"at": [2, 1]}), "steps[0].collect[0].pos: must rise"),
        ("/steps/0/collect/0/pos", json!("slots"), "steps[0].collect[0].pos: the input is no question"),
        (
            "/steps/0/model/adapters/0",
            json!("../../etc/passwd"),
            "steps[0].model.adapters[0]: \"../../etc/passwd\" is no adapter",
        ),
        ("/steps/0/input", json!("nothing"), "steps[0].input: there is no input"),
        ("/steps/0/id", json!("a/b"), "steps[0].id: \"a/b\" is no name"),
        ("/steps/1/id", json!("t"), "steps[1].id: the id \"t\" is taken"),
        ("/steps/2/b", json!("twice"), "steps[2].b: no earlier step has the id \"twice\""),
        ("/steps/2/b", json!("t"), "steps[2].b: \"t\" is a forward step"),
        ("/steps/5/coef", json!(1e9), "steps[5].coef: is 1000000000"),
        ("/steps/6/k", json!(0), "steps[6].k: is 0"),
        ("/steps/7/inject/0/src", json!("m"), "steps[7].inject[0].src: has 1 vectors for 3 positions"),
        ("/steps/7/inject/0/src", json!("lens"), "steps[7].inject[0].src: \"lens\" is tokens or text"),
        ("/steps/7/inject/0/layer", json!(9), "steps[7].inject[0].layer: is 9"),
        ("/steps/7/sample/t", json!(-1.0), "steps[7].sample.t: is -1"),
        ("/steps/7/sample/max", json!(100_000), "steps[7].sample.max: is 100000"),
        ("/out/0", json!("answer"), "out[0]: \"answer\" is tokens or text"),
        ("/inputs/spare", json!({"text": "a"}), "inputs.spare: is used by no step"),
        ("/inputs/ctx", json!({"url": "http://x"}), "inputs.ctx"),
        ("/inputs/question/question/slots", json!(0), "inputs.question.question: needs a layer and a slot"),
        ("/inputs/ctx", json!({"tokens": [4_000_000]}), "inputs.ctx: token 4000000 is outside"),
        (
            "/inputs/question/question/layers",
            json!([1, 1]),
            "inputs.question.question.layers: names block 1 twice",
        ),
        (
            "/inputs/question/question",
            json!({"layers": [0, 1], "slots": 1u64 << 63, "text": "a"}),
            "inputs.question.question: needs",
        ),
        (
            "/vectors",
            json!({"x": {"blob": "/etc/passwd", "tensor": "t"}}),
            "vectors.x: is no tensor of a file in the registry",
        ),
    ] {
        let error = change(path, value);
        assert!(error.starts_with(said), "{path}: {error}");
    }
    let small = Cap { flops: 1e3, bytes: 1e9 };
    assert!(
        planned(&base, &oracle_spec(), small).unwrap_err().to_string().contains("FLOPs, more than the cap")
    );
    let small = Cap { flops: 1e15, bytes: 500.0 };
    assert!(
        planned(&base, &oracle_spec(), small).unwrap_err().to_string().contains("bytes, more than the cap")
    );
    let nothing = Cap { flops: f64::NAN, bytes: f64::NAN };
    assert!(planned(&base, &oracle_spec(), nothing).unwrap_err().costly);
    // What is injected below nothing that is collected.
    let mut deep = oracle_spec();
    let step = json!({"op": "forward", "id": "late", "input": "ctx", "collect": [{"id": "l", "layer": 1}],
        "inject": [{"layer": 2, "pos": {"last": 3}, "src": "d"}]});
    deep["steps"].as_array_mut().unwrap().push(step);
    let error = planned(&base, &deep, Cap::default()).unwrap_err().to_string();
    assert!(error.starts_with("steps[8].inject[0].layer: is 2"), "{error}");
    // A spec of 2 MB that asks for gigabytes of injected vectors.
    let mut wide = oracle_spec();
    wide["steps"][7]["inject"] = json!(vec![wide["steps"][7]["inject"][0].clone(); 20_000]);
    let error = planned(&base, &wide, Cap::default()).unwrap_err().to_string();
    assert!(error.starts_with("steps[7].inject: has 20000 entries"), "{error}");
    assert!(Spec::parse(&format!("{{\"v\": {}}}", "[".repeat(5000))).is_err());
    assert!(Spec::parse(&" ".repeat(5 << 20)).is_err());
}

/// Every value of a spec by its place.
fn places(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| places(v, format!("{at}/{k}"), out)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), out)),
        _ => {}
    }
    out.push(at);
}

/// Damaged specs are refused with a field or do what they say; nothing panics. What is accepted is run.
#[test]
fn ten_thousand_mutated_specs_do_no_harm() {
    let base = tiny();
    let named = adapters(&base);
    let named: BTreeMap<String, &Adapter> = named.iter().map(|(k, a)| (k.clone(), a)).collect();
    let mut stream = rng::stream(3, "mutations", "");
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..10_000 {
        let mut spec = oracle_spec();
        for _ in 0..stream.random_range(1..=2) {
            let mut all = Vec::new();
            places(&spec, String::new(), &mut all);
            let at = all[stream.random_range(0..all.len())].clone();
            let donor = spec.pointer(&all[stream.random_range(0..all.len())]).unwrap().clone();
            let value = match stream.random_range(0..9) {
                0 => json!(null),
                1 => json!(stream.random_range(-3..40)),
                2 => json!(-1e300),
                3 => json!(u64::MAX),
                4 => json!(""),
                5 => json!("target"),
                6 => json!([0, 1]),
                7 => json!({"last": 2}),
                _ => donor,
            };
            *spec.pointer_mut(&at).unwrap() = value;
        }
        match planned(&base, &spec, Cap { flops: 1e9, bytes: 1e6 }) {
            Err(e) => {
                assert!(!e.field.is_empty() && !e.what.is_empty(), "{e:?} of {spec}");
                refused += 1;
            }
            Ok(plan) => {
                accepted += 1;
                // One in twenty: a pass takes milliseconds.
                if round % 20 == 0 {
                    // A value that overflowed on its way may still be refused here.
                    let _ = run(&base, &[&plan], &named, &[], &NEVER);
                }
            }
        }
    }
    assert!(refused > 5_000 && accepted > 100, "{refused} refused, {accepted} accepted");
}
