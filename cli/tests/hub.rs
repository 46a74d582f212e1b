//! `hub push|pull` as a user types them, against a Hub on this machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../exchange/tests/stub/mod.rs"]
mod stub;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use serde_json::Value;
use stub::{Fault, Stub, TOKEN};

struct Place {
    folder: tempfile::TempDir,
    stub: Stub,
}

impl Place {
    fn command(&self, store: &str, variables: &[(&str, &str)], args: &[&str]) -> Command {
        let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorafab"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("LORAFAB_STORE", self.folder.path().join(store))
            .env("HF_ENDPOINT", format!("{}/", self.stub.address))
            .envs(variables.iter().copied())
            .args(["--precision", "f32", "--model"])
            .arg(tiny)
            .args(args);
        command
    }

    /// What it printed; the token must be nowhere in it.
    fn run(&self, store: &str, variables: &[(&str, &str)], args: &[&str]) -> Output {
        let out = self.command(store, variables, args).output().unwrap();
        for text in [&out.stdout, &out.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(TOKEN), "{args:?} shows the token");
        }
        out
    }

    fn json(&self, store: &str, args: &[&str]) -> Value {
        let out = self.run(store, &[("HF_TOKEN", TOKEN)], &[&["--json"], args].concat());
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn fails(&self, code: i32, parts: &[&str], variables: &[(&str, &str)], args: &[&str]) {
        let out = self.run("a", variables, args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{args:?}: {part:?} is not in: {stderr}");
        }
    }
}

#[test]
fn a_collection_goes_to_the_hub_and_comes_back_whoever_is_killed() {
    let p = Place { folder: tempfile::tempdir().unwrap(), stub: Stub::new() };
    p.json("a", &["factory", "submit", "favourite", "random", "--limit", "4"]);
    p.json("a", &["factory", "run"]);
    let here = p.json("a", &["adapter", "list"]);
    let adapters = here["adapters"].as_array().unwrap().len();
    assert_eq!(adapters, 8);

    // Nothing is sent without the right to, the wish to, or a network.
    p.fails(2, &["needs a Hub token", "HF_TOKEN", "$HF_HOME/token"], &[], &["hub", "push", "org/set"]);
    p.fails(2, &["offline"], &[("HF_TOKEN", TOKEN), ("HF_HUB_OFFLINE", "1")], &["hub", "push", "org/set"]);
    p.fails(2, &["offline"], &[("HF_HUB_OFFLINE", "1")], &["hub", "pull", "org/set"]);
    p.fails(
        2,
        &["\"../set\" is not a repository's name"],
        &[("HF_TOKEN", TOKEN)],
        &["hub", "push", "../set"],
    );
    p.fails(3, &["no dataset org/set"], &[("HF_TOKEN", TOKEN)], &["hub", "pull", "org/set"]);
    p.fails(5, &["wrong or has expired"], &[("HF_TOKEN", "hf_other")], &["hub", "push", "org/set"]);
    let plan = p.run("a", &[], &["hub", "push", "org/set", "--dry-run"]);
    assert!(String::from_utf8_lossy(&plan.stdout).starts_with("8 adapters (0 already there)"), "{plan:?}");
    let plan = p.json("a", &["hub", "push", "org/set", "--dry-run"]);
    assert_eq!(
        (&plan["adapters"], &plan["commits"], &plan["looked_at"]),
        (&8.into(), &2.into(), &true.into())
    );
    assert!(p.stub.requests().iter().all(|r| r.starts_with("GET")));
    assert!(p.stub.state().repos.is_empty());

    // Killed while it waits for an answer, at several requests; the last push goes to the end.
    // The latest soon: a killed push may have sent more than it knows, and then the next one needs fewer requests.
    for k in [1, 9, 6, 4] {
        p.stub.reset(Some((k, Fault::Hang)));
        let mut child = p
            .command("a", &[("HF_TOKEN", TOKEN)], &["hub", "push", "org/set"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !p.stub.state().hanging {
            assert!(child.try_wait().unwrap().is_none(), "it ended before request {k}");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    p.stub.reset(None);
    let done = p.json("a", &["hub", "push", "org/set"]);
    assert_eq!((&done["adapters"], &done["index_updated"]), (&8.into(), &true.into()), "{done}");
    assert_eq!(done["already_there"].as_u64().unwrap() + done["sent"].as_u64().unwrap(), 8, "{done}");
    assert_eq!(p.stub.state().puts_again, 0);
    assert_eq!(p.stub.state().leaks, 0);
    assert!(p.stub.state().repos["datasets/org/set"].private);
    let again = p.json("a", &["hub", "push", "org/set", "--where", "family = random"]);
    assert_eq!((&again["already_there"], &again["commits"]), (&4.into(), &0.into()), "{again}");

    let pulled = p.json("b", &["hub", "pull", "org/set", "--dry-run"]);
    assert_eq!(pulled["wanted"].as_array().unwrap().len(), 8);
    let pulled = p.json("b", &["hub", "pull", "org/set"]);
    assert_eq!(pulled["added"].as_array().unwrap().len(), 8, "{pulled}");
    assert_eq!(p.json("b", &["adapter", "list"]), here);
    assert_eq!(p.json("b", &["adapter", "verify"])["outcomes"].as_array().unwrap().len(), 8);
    assert_eq!(p.json("b", &["registry", "check"])["report"]["problems"], serde_json::json!([]));
    // Killed at a random moment, a pull goes on from what is there. `LORAFAB_CRASH=long` for 200.
    let long = std::env::var("LORAFAB_CRASH").is_ok_and(|v| v == "long");
    let begin = Instant::now();
    p.json("timed", &["hub", "pull", "org/set"]);
    let time = begin.elapsed().as_micros() as u64;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(17);
    let mut killed = 0;
    for i in 0..if long { 200 } else { 10 } {
        let store = format!("pull-{i}");
        let mut child = p
            .command(&store, &[("HF_TOKEN", TOKEN)], &["hub", "pull", "org/set"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..time)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let pulled = p.json(&store, &["hub", "pull", "org/set"]);
        let n = |key: &str| pulled[key].as_array().unwrap().len();
        assert_eq!(n("added") + n("known"), 8, "{i}: {pulled}");
        assert_eq!(p.json(&store, &["adapter", "list"]), here, "{i}");
        assert_eq!(
            p.json(&store, &["registry", "check"])["report"]["problems"],
            serde_json::json!([]),
            "{i}"
        );
        std::fs::remove_dir_all(p.folder.path().join(&store)).unwrap();
    }
    println!("{killed} pulls were killed");
    assert!(killed > 4, "{killed}");
    // The token of the Hub's own tools does as well.
    let tools = p.folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    std::fs::write(tools.join("token"), format!("{TOKEN}\n")).unwrap();
    let out = p.run("b", &[("HF_HOME", tools.to_str().unwrap())], &["hub", "pull", "org/set"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0 adapters added, 8 known\n");
    // One that was damaged there is refused, and named.
    p.stub.tamper("org/set", |files| {
        let card = files.keys().find(|f| f.ends_with("lorafab.json")).unwrap().clone();
        files.remove(&card);
    });
    let out = p.run("c", &[("HF_TOKEN", TOKEN)], &["hub", "pull", "org/set"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("lorafab.json: is not in the repository"),
        "{out:?}"
    );
    assert_eq!(p.json("c", &["adapter", "list"])["adapters"].as_array().unwrap().len(), 7);
}
