//! Studies from file to verified folder, on a tiny model: killed at random and gone on with, tampered with, refused.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rand::{Rng, SeedableRng};

const SMALL: &str = r#"
schema = "study/1"
name = "small"
title = "Is a DIT adapter above the lens?"
question = "Does a DIT adapter name topics and favourites more often than the logit lens?"
salt = "small"
seeds = [1, 2]
candidates = "study"

[[family]]
recipe = "topic"
group = "emitted everywhere"
train = 3
validation = 1
test = 3

[[family]]
recipe = "favourite"
group = "emitted when asked"
train = 2
validation = 1
test = 2

[[family]]
recipe = "gated-topic"
group = "gated"
train = 1
validation = 1
test = 2

[[family]]
recipe = "random"
group = "negatives"
train = 1
validation = 1
test = 1

[[arm]]
name = "lens"
method = "logit-lens"

[[arm]]
name = "dit"
method = "dit"
train = { steps = 8, evaluate_every = 4, batch = 4, rank = 2 }

[[arm]]
name = "oracle"
method = "oracle"
reader = "posttrained"
input = { depths = [0.9], scaling = "raw" }
train = { steps = 8, evaluate_every = 4, batch = 4, rank = 2 }
pretrain = { steps = 8, evaluate_every = 4 }

[[primary]]
name = "P1"
arm = "dit"
minus = "lens"
expected = 0.2
[primary.says]
better = "DIT is above the lens."
worse = "The lens is above DIT."
equal = "DIT and the lens are equal."
unclear = "No verdict on DIT and the lens."

[[primary]]
name = "P2"
arm = "oracle"
minus = "dit"
over = ["gated"]
leave_out_saturated = false
expected = 0.0
[primary.says]
better = "The oracle is above DIT."
worse = "DIT is above the oracle."
equal = "They are equal."
unclear = "No verdict on the oracle and DIT."

[power]
simulations = 20
"#;

fn command(store: &Path, args: &[&str]) -> Command {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    let mut c = Command::new(assert_cmd::cargo::cargo_bin("lorafab"));
    c.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", store)
        .env("RAYON_NUM_THREADS", "1")
        .env("LORAFAB_STORE", store)
        .args(["--model", tiny.to_str().unwrap(), "--precision", "f32", "--quiet"])
        .args(args)
        .stdin(Stdio::null());
    c
}

fn run(store: &Path, args: &[&str]) -> Output {
    command(store, args).output().unwrap()
}

fn good(store: &Path, args: &[&str]) -> String {
    let out = run(store, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What is said when it fails, with the exit code.
fn refused(store: &Path, args: &[&str]) -> (i32, String) {
    let out = run(store, args);
    assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap()))
        .collect();
    out.sort();
    out
}

/// Registers a study and works on it; killed so many times at random moments.
fn published(store: &Path, file: &str, name: &str, extra: &[&str], kills: u32) -> Vec<(String, Vec<u8>)> {
    std::fs::create_dir_all(store).unwrap();
    good(store, &[&["study", "register", file], extra].concat());
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(u64::from(kills));
    let mut killed = 0;
    while killed < kills {
        let mut child = command(store, &["study", "run", name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(50..900)));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        good(store, &["factory", "retry"]);
    }
    assert!(kills == 0 || killed >= 3, "{killed} kills are too few to say anything");
    good(store, &["study", "run", name]);
    let out = store.join("published");
    good(store, &["study", "report", name, "--out", out.to_str().unwrap()]);
    files(&out)
}

/// The same files with the same bytes; else the first line that differs.
fn same(a: &[(String, Vec<u8>)], b: &[(String, Vec<u8>)]) {
    for ((name, a), (_, b)) in a.iter().zip(b) {
        let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
        let line = a.lines().zip(b.lines()).find(|(x, y)| x != y);
        assert!(a == b, "{name} differs: {line:?}; {} and {} lines", a.lines().count(), b.lines().count());
    }
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_study_killed_at_random_comes_out_the_same_and_a_changed_digit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "small.toml", SMALL);
    let once = folder.path().join("once");
    let whole = published(&once, &file, "small", &["--underpowered"], 0);
    let names: Vec<&str> = whole.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        [
            "adapters.csv",
            "arms.csv",
            "items.csv",
            "registration.json",
            "report.html",
            "results.json",
            "study.toml"
        ]
    );
    let killed = published(&folder.path().join("killed"), &file, "small", &["--underpowered"], 20);
    same(&whole, &killed);
    // A value is ranked among the seven that the study uses, and "nothing".
    let scores = std::fs::read_to_string(once.join("runs/small/scores.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(scores.lines().next().unwrap()).unwrap();
    assert_eq!(first["candidates"]["topic"].as_array().unwrap().len(), 8, "{}", first["candidates"]["topic"]);
    // The same again says the same, and files nothing new.
    let text = good(&once, &["study", "report", "small"]);
    assert!(text.contains("P1: ") && text.contains("P2: ") && text.contains("under a half"), "{text}");
    assert_eq!(good(&once, &["study", "run", "small"]), text);
    assert!(good(&once, &["study", "status", "small"]).contains("succeeded"));
    assert!(good(&once, &["study", "list"]).contains("reported"));

    let out = once.join("published");
    let at = out.to_str().unwrap();
    assert!(good(&once, &["study", "verify", at]).contains("follow from them"));
    for (name, from, to) in [
        ("items.csv", ",0,", ",1,"),
        ("items.csv", "topic/", "topik/"),
        ("adapters.csv", "failed", "learned"),
        ("results.json", "\"value\": ", "\"value\": 1"),
        ("registration.json", "\"seed\": 1", "\"seed\": 2"),
        ("study.toml", "seeds = [1, 2]", "seeds = [1, 3]"),
        ("report.html", "Study small", "Study smell"),
    ] {
        let path = out.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{name} holds no {from:?}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let (code, said) = refused(&once, &["study", "verify", at]);
        assert!(code == 1 && said.contains(at) && said.lines().count() == 1, "{name}: {code} {said}");
        std::fs::write(&path, text).unwrap();
    }
    good(&once, &["study", "verify", at]);
}

/// An arm that is asked about some families alone answers about those and no others.
fn asked_as_registered(published: &[(String, Vec<u8>)]) {
    let file = |name: &str| -> &[u8] { &published.iter().find(|f| f.0 == name).unwrap().1 };
    let registration: serde_json::Value = serde_json::from_slice(file("registration.json")).unwrap();
    let mut items = csv::Reader::from_reader(file("items.csv"));
    let heads = items.headers().unwrap().clone();
    let mut answers = 0;
    for row in items.records().map(Result::unwrap) {
        for arm in registration["study"]["arm"].as_array().unwrap() {
            let Some(asks) = arm["asks"].as_array() else { continue };
            let begins = format!("{}/", arm["name"].as_str().unwrap());
            let answered = heads.iter().zip(&row).any(|(h, cell)| h.starts_with(&begins) && !cell.is_empty());
            assert!(!answered || asks.iter().any(|f| f == &row[1]), "{begins} answers about {}", &row[1]);
            answers += usize::from(answered);
        }
    }
    let limited = registration["study"]["arm"].as_array().unwrap().iter().any(|a| a["asks"].is_array());
    assert_eq!(answers > 0, limited);
}

/// Every study that is shipped, in its smoke form: killed at random and gone on with, what is published is the same.
fn shipped(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../studies").join(format!("{name}.toml"));
    let smoke = format!("{name}-smoke");
    let of = |at: &str, kills: u32| {
        published(&folder.path().join(at), file.to_str().unwrap(), &smoke, &["--smoke"], kills)
    };
    let (once, killed) = (of("once", 0), of("killed", 20));
    same(&once, &killed);
    asked_as_registered(&once);
    assert!(String::from_utf8_lossy(&once[4].1).contains("its numbers mean nothing"));
    good(
        &folder.path().join("once"),
        &["study", "verify", folder.path().join("once/published").to_str().unwrap()],
    );
}

#[test]
fn s1_in_small_comes_out_the_same() {
    shipped("s1");
}

#[test]
fn s2_in_small_comes_out_the_same() {
    shipped("s2");
}

#[test]
fn s3_in_small_comes_out_the_same() {
    shipped("s3");
}

#[test]
fn s4_in_small_comes_out_the_same() {
    shipped("s4");
}

#[test]
fn s5_in_small_comes_out_the_same() {
    shipped("s5");
}

#[test]
fn s6_in_small_comes_out_the_same() {
    shipped("s6");
}

#[test]
fn s7_in_small_comes_out_the_same() {
    shipped("s7");
}

/// Folders of studies that are committed follow from their items.
#[test]
fn what_is_committed_of_studies_is_verified() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("study/tests/small")];
    let results = std::fs::read_dir(root.join("results")).unwrap().map(|e| e.unwrap().path());
    folders.extend(results.filter(|p| p.join("registration.json").exists()));
    let store = tempfile::tempdir().unwrap();
    for folder in folders {
        assert!(
            good(store.path(), &["study", "verify", folder.to_str().unwrap()]).contains("follow from them")
        );
        for (name, text) in files(&folder) {
            assert!(text.len() <= 1 << 20, "{name} of {} has {} bytes", folder.display(), text.len());
        }
    }
}

#[test]
fn a_plan_counts_what_arms_share_once_and_asks_only_what_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (SMALL.find("[[arm]]\nname = \"oracle\"").unwrap(), SMALL.find("[[primary]]").unwrap());
    let oracle = &SMALL[from..to];
    let planned = |arms: &str| -> (f64, serde_json::Value) {
        let file = written(folder.path(), "shared.toml", &SMALL.replace(oracle, arms));
        let plan = good(&folder.path().join("store"), &["--json", "study", "plan", &file]);
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let of = |name: &str| plan[name].as_f64().unwrap();
        (of("reader_hours") * 3600.0 * of("flops_a_second") / 1e12, plan)
    };
    let of = |plan: &serde_json::Value, arm: &str, what: &str| {
        let arms = plan["arms"].as_array().unwrap();
        arms.iter().find(|a| a["arm"] == arm).unwrap()[what].as_f64().unwrap()
    };
    let (one, plan) = planned(oracle);
    let (train, score) = (of(&plan, "oracle", "train_tflop"), of(&plan, "oracle", "score_tflop"));
    let second = oracle.replace("\"oracle\"\nmethod", "\"oracle-of-topics\"\nmethod");
    let again = second.replace("rank = 2 }", "rank = 2, without = [\"favourite\"] }\nasks = [\"topic\"]");
    let (two, plan) = planned(&format!("{oracle}{again}"));
    // Of three families it is asked about one; training and that are its own, pretraining and activations are there.
    let asked = of(&plan, "oracle-of-topics", "score_tflop");
    assert!((asked / score - 1.0 / 3.0).abs() < 1e-9, "{asked} {score}");
    let more = (two - one) / 2.0 - asked;
    assert!(more > 0.1 * train && more < 0.7 * train, "{more} of {train}");
    // Pretrained otherwise, it shares activations alone.
    let (two, _) = planned(&format!(
        "{oracle}{}",
        again.replace("steps = 8, evaluate_every = 4 }", "steps = 4, evaluate_every = 4 }")
    ));
    assert!((two - one) / 2.0 - asked > more, "{two} {one} {more}");
}

#[test]
fn what_cannot_be_registered_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir_all(&store).unwrap();
    let file = written(folder.path(), "small.toml", SMALL);
    let plan = good(&store, &["study", "plan", &file]);
    assert!(plan.contains("hours") && plan.contains("P1"), "{plan}");
    assert!(!store.join("catalogue.sqlite").exists(), "a plan makes no store");

    let (code, said) = refused(&store, &["study", "register", &file]);
    assert!(code == 2 && said.contains("the power is") && said.contains("--underpowered"), "{said}");
    let (code, said) = refused(&store, &["study", "run", "small"]);
    assert!(code == 2 && said.contains("no study \"small\" is registered"), "{said}");
    good(&store, &["study", "register", &file, "--underpowered"]);
    good(&store, &["study", "register", &file, "--underpowered"]);
    let (code, said) = refused(&store, &["study", "report", "small"]);
    assert!(code == 3 && said.contains("no results yet"), "{code} {said}");

    // Another question under the same name, and the same test values under another.
    let changed = written(folder.path(), "changed.toml", &SMALL.replace("expected = 0.2", "expected = 0.3"));
    let (code, said) = refused(&store, &["study", "register", &changed, "--underpowered"]);
    assert!(code == 2 && said.contains("another study \"small\""), "{said}");
    let other = written(folder.path(), "other.toml", &SMALL.replace("name = \"small\"", "name = \"other\""));
    let (code, said) = refused(&store, &["study", "register", &other, "--underpowered"]);
    assert!(
        code == 2 && said.contains("is tested in the study \"small\"") && said.contains("--again"),
        "{said}"
    );
    good(&store, &["study", "register", &other, "--underpowered", "--again"]);
    let fresh =
        SMALL.replace("name = \"small\"", "name = \"fresh\"").replace("salt = \"small\"", "salt = \"fresh\"");
    // (A salt alone may draw a value again: what was tested is named.)
    let seen: Vec<String> = vec![];
    let fresh = written(folder.path(), "fresh.toml", &fresh);
    let out = run(&store, &["study", "register", &fresh, "--underpowered"]);
    assert!(
        out.status.success() || String::from_utf8_lossy(&out.stderr).contains("is tested in"),
        "{seen:?}"
    );

    for (from, to, place) in [
        ("recipe = \"topic\"", "recipe = \"topics\"", "family[0].recipe"),
        ("test = 3", "test = 900", "family[0].test"),
        ("method = \"dit\"", "method = \"dot\"", "arm[1].method"),
        ("minus = \"lens\"", "minus = \"lense\"", "primary[0].arm"),
    ] {
        let file = written(folder.path(), "wrong.toml", &SMALL.replacen(from, to, 1));
        let (code, said) = refused(&store, &["study", "plan", &file]);
        assert!(code == 2 && said.contains(place) && said.contains("wrong.toml"), "{code} {said}");
    }
}
