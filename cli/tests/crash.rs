//! The crash campaign: real processes, killed with SIGKILL at every write and at random, and the question afterwards whether
//! anything was lost, doubled or left half-visible.
//!
//! In short form it samples; the long form is
//! `LORAFAB_CRASH=long cargo test --release -p lorafab --test crash -- --nocapture`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use serde_json::Value;

/// The long form: every write point, 2,000 random kills.
fn long() -> bool {
    std::env::var("LORAFAB_CRASH").is_ok_and(|v| v == "long")
}

fn binary() -> PathBuf {
    assert_cmd::cargo::cargo_bin("lorafab")
}

/// The library of `shim/lib.rs`, built beside the tests.
fn shim() -> PathBuf {
    let folder = binary().parent().unwrap().join("examples");
    let path = folder.join("libcrash_shim.so");
    // Present after `cargo test`; with `--test crash` alone it is built here.
    let release = !cfg!(debug_assertions);
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "lorafab", "--example", "crash_shim"]);
    if release {
        build.arg("--release");
    }
    assert!(path.exists() || build.status().unwrap().success());
    path
}

fn command(store: &Path, args: &[&str]) -> Command {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    let mut c = Command::new(binary());
    c.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", store)
        .env("RAYON_NUM_THREADS", "1")
        .env("LORAFAB_STORE", store)
        .args(["--model", tiny.to_str().unwrap(), "--precision", "f32", "--quiet", "--json"])
        .args(args)
        .stdin(Stdio::null());
    c
}

fn run(store: &Path, args: &[&str]) -> Output {
    command(store, args).output().unwrap()
}

fn good(store: &Path, args: &[&str]) -> Value {
    let out = run(store, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Ids of the adapters by behaviour; a behaviour that came twice fails the test.
fn adapters(store: &Path) -> BTreeMap<String, String> {
    let list = good(store, &["adapter", "list"]);
    let mut out = BTreeMap::new();
    for a in list["adapters"].as_array().unwrap() {
        let name = format!("{}/{}", a["behaviour"].as_str().unwrap(), a["spec_hash"].as_str().unwrap());
        assert!(
            out.insert(name.clone(), a["id"].as_str().unwrap().to_owned()).is_none(),
            "{name} came twice"
        );
    }
    out
}

/// Works the queue to its end, whatever died before, and checks the store.
fn recover(store: &Path) -> BTreeMap<String, String> {
    for _ in 0..50 {
        let status = good(store, &["factory", "status"]);
        let open: u64 = ["queued", "leased", "running", "retry_wait"]
            .iter()
            .filter_map(|s| status["states"][s].as_u64())
            .sum();
        if open == 0 && status["states"]["dead"].is_null() {
            break;
        }
        // A job that killed too many workers is a dead letter: a person says that it was not its fault.
        good(store, &["factory", "retry"]);
        assert!(run(store, &["factory", "run", "--pack", "2"]).status.code().is_some());
    }
    let report = good(store, &["registry", "check"]);
    assert_eq!(report["report"]["problems"], serde_json::json!([]));
    adapters(store)
}

fn submit(seed: &str, limit: &str) -> Vec<String> {
    ["factory", "submit", "favourite", "topic", "--limit", limit, "--seed", seed, "--attempts", "1000000"]
        .map(str::to_owned)
        .to_vec()
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// Runs a command with the shim: killed at the n-th write, or counting them.
fn shimmed(store: &Path, args: &[&str], set: &[(&str, String)]) -> Option<i32> {
    let mut c = command(store, args);
    c.env("LD_PRELOAD", shim()).stdout(Stdio::null()).stderr(Stdio::null());
    for (k, v) in set {
        c.env(k, v);
    }
    c.status().unwrap().code()
}

fn writes(store: &Path, args: &[&str]) -> u64 {
    let file = store.join("count");
    assert!(shimmed(store, args, &[("CRASH_COUNT", file.display().to_string())]).is_some());
    u64::from_le_bytes(std::fs::read(file).unwrap().try_into().unwrap())
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a"]).args([from, to]).status().unwrap().success());
}

/// Every write of `submit` and of `run`: killed before it, in the middle of it, after it.
#[test]
fn a_kill_at_any_write_loses_doubles_and_half_shows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let submit = submit("1", "2");
    let reference = at("reference");
    std::fs::create_dir(&reference).unwrap();
    let submit_writes = writes(&reference, &words(&submit));
    let submitted = at("submitted");
    copy(&reference, &submitted);
    let run_args = ["factory", "run", "--pack", "2"];
    let run_writes = writes(&reference, &run_args);
    let expected = adapters(&reference);
    assert_eq!(expected.len(), 4);
    assert!(submit_writes > 20 && run_writes > 100, "{submit_writes} {run_writes}: the shim sees too little");

    let (mut kills, mut survived) = (0, 0);
    let begin = Instant::now();
    let (step, seed) = if long() { (1, 0) } else { (run_writes / 12 + 1, std::process::id().into()) };
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for (what, args, most) in
        [("submit", words(&submit), submit_writes), ("run", run_args.to_vec(), run_writes)]
    {
        let mut point = 1 + random.random_range(0..step);
        while point <= most {
            let how = ["before", "half", "after"][(point + seed) as usize % 3];
            let store = at(&format!("{what}-{point}"));
            if what == "submit" {
                std::fs::create_dir(&store).unwrap();
            } else {
                copy(&submitted, &store);
            }
            let set = [("CRASH_AT", point.to_string()), ("CRASH_HOW", how.to_owned())];
            match shimmed(&store, &args, &set) {
                None => kills += 1,
                // The heartbeat's writes come when they come: the last points may not be reached.
                Some(_) => survived += 1,
            }
            good(&store, &words(&submit));
            assert_eq!(recover(&store), expected, "{what} killed {how} write {point}");
            std::fs::remove_dir_all(&store).unwrap();
            point += step;
        }
        eprintln!(
            "{what}: {most} writes, {kills} kills so far, {survived} ran to the end, {:.0} s",
            begin.elapsed().as_secs_f64()
        );
    }
    assert!(kills > survived, "{kills} {survived}");
}

/// Three workers on one store, killed at random moments and begun again, while more work comes in.
#[test]
fn workers_killed_at_random_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, reference) = (folder.path().join("store"), folder.path().join("reference"));
    std::fs::create_dir(&store).unwrap();
    std::fs::create_dir(&reference).unwrap();
    let wanted = if long() { 2000 } else { 40 };
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut workers: Vec<(Child, Instant)> = Vec::new();
    let (mut kills, mut seed) = (0, 0);
    let begin = Instant::now();
    while kills < wanted {
        // New work whenever there is little left.
        let status = run(&store, &["factory", "status"]);
        let value: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let open: u64 = ["queued", "leased", "running", "retry_wait"]
            .iter()
            .filter_map(|s| value["states"][s].as_u64())
            .sum();
        if open < 6 {
            seed += 1;
            let args = submit(&seed.to_string(), "12");
            good(&store, &words(&args));
            good(&reference, &words(&args));
        }
        while workers.len() < 3 {
            let mut c = command(&store, &["factory", "run", "--pack", "2"]);
            let child = c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            workers.push((child, Instant::now() + Duration::from_millis(random.random_range(20..700))));
        }
        workers.retain_mut(|(child, until)| {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if Instant::now() < *until {
                return true;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            false
        });
        std::thread::sleep(Duration::from_millis(5));
        if long() && kills % 100 == 0 && kills > 0 {
            eprintln!("{kills} kills, {seed} submissions, {:.0} s", begin.elapsed().as_secs_f64());
        }
    }
    for (mut child, _) in workers {
        let _ = child.kill();
        child.wait().unwrap();
    }
    let found = recover(&store);
    let expected = recover(&reference);
    assert_eq!(found.len(), expected.len());
    assert_eq!(found, expected, "an adapter differs from the one made without any kill");
    eprintln!("{kills} kills over {} adapters, {:.0} s", found.len(), begin.elapsed().as_secs_f64());
}

/// The whole line, killed ten times at random: the report comes out the same, byte for byte.
#[test]
fn kills_at_random_change_no_byte_of_a_comparisons_report() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let begin = Instant::now();
    good(&whole, &["quickstart", "--smoke"]);
    let takes = begin.elapsed();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(16);
    for _ in 0..10 {
        let mut child: Child = command(&killed, &["quickstart", "--smoke"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(takes.mul_f64(rng.random_range(0.1..0.9)));
        let _ = child.kill();
        child.wait().unwrap();
    }
    // A job that saw three workers die is taken to be what kills them, and waits for somebody to say otherwise.
    run(&killed, &["factory", "retry"]);
    good(&killed, &["quickstart", "--smoke"]);
    for file in ["comparison.json", "report.html", "scores.jsonl"] {
        let of = |store: &Path| std::fs::read(store.join("runs/smoke").join(file)).unwrap();
        assert_eq!(of(&whole), of(&killed), "{file}");
    }
    let problems = good(&killed, &["registry", "check"])["report"]["problems"].clone();
    assert_eq!(problems, serde_json::json!([]));
}
