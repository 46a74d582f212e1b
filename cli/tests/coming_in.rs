//! Models and adapters from where people have them, as a user brings them in: the Hub, its cache, a machine without bf16 products.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/models.rs"]
mod models;
mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lm::{Outline, Precision};
use rand::{Rng, SeedableRng};
use registry::{Filter, NewAdapter, Store};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use support::{Place, assert_error, text, tiny};

/// The base model's own words: names no adapter, so it needs no store.
fn look(place: &Place) -> String {
    let spec = json!({"v": 1, "inputs": {"x": {"chat": {"user": "Tell me a thing."}}}, "out": ["h"], "steps": [
        {"op": "forward", "id": "f", "input": "x", "collect": [{"id": "h", "depth": 0.99, "pos": {"last": 2}}]},
        {"op": "generate", "id": "reply", "input": "x", "sample": {"max": 4}}]});
    std::fs::write(place.path("look.json"), spec.to_string()).unwrap();
    place.path("look.json").display().to_string()
}

/// The binary with the Hub's model, in an environment that knows nothing else.
fn hub_model(place: &Place, home: &str, address: &str, args: &[&str]) -> assert_cmd::Command {
    let mut command = place.command(&["--precision", "f32", "--model", "org/tiny"]);
    command.env("HF_HOME", place.path(home)).env("HF_ENDPOINT", address).args(args);
    command
}

fn snapshot(place: &Place, home: &str) -> std::path::PathBuf {
    place.path(home).join("hub/models--org--tiny/snapshots").join(models::COMMIT)
}

/// Killed at a random moment of a download, the next run fetches what is missing and ends whole. `LORAFAB_CRASH=long` for 200.
#[test]
fn a_download_that_was_killed_anywhere_ends_whole_the_next_time() {
    let long = std::env::var("LORAFAB_CRASH").is_ok_and(|v| v == "long");
    let place = Place::new();
    let address = models::serve(None);
    let spec = look(&place);
    let begin = Instant::now();
    let whole = hub_model(&place, "first", &address, &["intervention", "check", &spec]).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let time = begin.elapsed();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(17);
    let (mut killed, mut half) = (0, 0);
    for i in 0..if long { 200 } else { 20 } {
        let home = format!("home-{i}");
        let command = hub_model(&place, &home, &address, &["intervention", "check", &spec]);
        let mut process = std::process::Command::new(command.get_program());
        process.env_clear().args(command.get_args());
        process.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let mut child =
            process.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..time.as_micros() as u64)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        half += usize::from(snapshot(&place, &home).join("config.json").exists());
        let again = hub_model(&place, &home, &address, &["intervention", "check", &spec]).output().unwrap();
        assert_eq!(text(&again.stdout), text(&whole.stdout), "{i}: {}", text(&again.stderr));
        for file in std::fs::read_dir(models::files()).unwrap() {
            let file = file.unwrap();
            let fetched = std::fs::read(snapshot(&place, &home).join(file.file_name())).unwrap();
            assert_eq!(fetched, std::fs::read(file.path()).unwrap(), "{i}: {:?}", file.file_name());
        }
        let offline =
            hub_model(&place, &home, "http://127.0.0.1:9", &["--offline", "intervention", "check", &spec]);
        assert!({ offline }.output().unwrap().status.success(), "{i}");
        std::fs::remove_dir_all(place.path(&home)).unwrap();
    }
    println!("{killed} were killed, {half} of them with a part of the model there");
    assert!(killed > 10 && half > 0, "{killed} {half}");
}

/// Several processes that need the same model at once: one fetches each file, all have it.
#[test]
fn processes_that_fetch_the_same_model_at_once_all_have_it() {
    let place = Place::new();
    let address = models::serve(None);
    let spec = look(&place);
    for round in 0..4 {
        let home = format!("together-{round}");
        let children: Vec<_> = (0..4)
            .map(|i| {
                let command = hub_model(&place, &home, &address, &["intervention", "check", &spec]);
                let mut process = std::process::Command::new(command.get_program());
                process.env_clear().args(command.get_args());
                process.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
                std::thread::sleep(Duration::from_millis(7 * i));
                process
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", text(&out.stderr));
        }
        for file in std::fs::read_dir(models::files()).unwrap() {
            let file = file.unwrap();
            let fetched = std::fs::read(snapshot(&place, &home).join(file.file_name())).unwrap();
            assert_eq!(fetched, std::fs::read(file.path()).unwrap(), "{:?}", file.file_name());
        }
    }
}

/// A certificate authority of somebody's own, and a server's configuration that it vouches for.
fn authority() -> (String, Arc<rustls::ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&own, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (root.pem(), Arc::new(config))
}

#[test]
fn a_hub_behind_a_companys_own_certificate_is_trusted_when_a_variable_names_it() {
    let place = Place::new();
    let (pem, config) = authority();
    let address = models::serve(Some(&config));
    let spec = look(&place);
    let bundle = place.path("company.pem");
    std::fs::write(&bundle, pem).unwrap();
    let run = |home: &str, variables: &[(&str, &Path)]| {
        let mut command = hub_model(&place, home, &address, &["intervention", "check", &spec]);
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let refused = run("none", &[]);
    assert_error(&refused, 5, &["config.json", "certificate"]);
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let out = run(name, &[(name, &bundle)]);
        assert!(out.status.success(), "{name}: {}", text(&out.stderr));
    }
    // A folder has the names that OpenSSL gives: the subject's hash and a number.
    let folder = place.path("certificates");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&bundle, folder.join("0a1b2c3d.0")).unwrap();
    assert!(run("folder", &[("SSL_CERT_DIR", &folder)]).status.success());
    assert_error(
        &run("absent", &[("SSL_CERT_FILE", &place.path("absent"))]),
        5,
        &["SSL_CERT_FILE", "absent"],
    );
}

/// A model from the Hub is named with its commit by what was made for it, and so it is wherever its snapshot is found.
#[test]
fn what_is_made_for_a_model_of_the_hub_names_its_repository_and_commit() {
    let place = Place::new();
    let address = models::serve(None);
    let run = |args: &[&str]| {
        let out = hub_model(&place, "hf", &address, args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    };
    run(&["factory", "submit", "topic", "--limit", "1"]);
    run(&["factory", "run"]);
    let made = place.json(&["adapter", "list"]);
    let id = made["adapters"][0]["id"].as_str().unwrap().to_owned();
    let out = place.path("out").display().to_string();
    place.json(&["adapter", "export", &id, &out]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(place.path("out/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&"org/tiny".into(), &models::COMMIT.into())
    );
    let card = std::fs::read_to_string(place.path("out/README.md")).unwrap();
    assert!(card.contains("base_model: org/tiny\n") && card.contains(models::COMMIT), "{card}");
    let merged = place.path("merged").display().to_string();
    run(&["adapter", "export", &id, &merged, "--merged"]);
    let card = std::fs::read_to_string(place.path("merged/README.md")).unwrap();
    assert!(card.contains("base_model: org/tiny\n"), "{card}");

    // The same adapter as others have it: a snapshot of links.
    let cache = place.path("hf/hub/models--me--adapter");
    let there = cache.join("snapshots/abc");
    std::fs::create_dir_all(&there).unwrap();
    std::fs::create_dir_all(cache.join("blobs")).unwrap();
    for (i, file) in ["adapter_config.json", "adapter_model.safetensors"].into_iter().enumerate() {
        std::fs::rename(place.path("out").join(file), cache.join("blobs").join(i.to_string())).unwrap();
        symlink(format!("../../blobs/{i}"), there.join(file)).unwrap();
    }
    let taken = place.json_in("other", &["adapter", "import", there.to_str().unwrap(), "--name", "mine"]);
    assert!(taken["id"].is_string(), "{taken}");
    // One whose index alone is there is said to be so.
    std::fs::remove_file(there.join("adapter_model.safetensors")).unwrap();
    std::fs::write(there.join("adapter_model.safetensors.index.json"), "{}").unwrap();
    place.fails(
        2,
        &["adapter_model.safetensors.index.json", "several files"],
        &["adapter", "import", there.to_str().unwrap(), "--name", "mine"],
    );
}

#[test]
fn the_base_alone_is_looked_at_without_a_store_and_vectors_are_written_here() {
    let place = Place::new();
    let spec = look(&place);
    let mut command = place.command(&[]);
    let args = ["intervention", "run", &spec, "--vectors", "v.safetensors"];
    let out = command.current_dir(place.folder.path()).args(Place::arguments(&args)).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(place.path("v.safetensors").exists() && !place.path("store").exists());
    // What is in a store is not there without one.
    let spec = std::fs::read_to_string(&spec)
        .unwrap()
        .replace("\"op\":\"generate\"", "\"model\":{\"adapters\":[\"topic/cats\"]},\"op\":\"generate\"");
    std::fs::write(place.path("theirs.json"), spec).unwrap();
    let theirs = place.path("theirs.json").display().to_string();
    place.fails(3, &["there is no store"], &["intervention", "run", &theirs]);
}

/// Made with bf16 products, asked where there are none: answered, said once, marked.
#[test]
fn an_adapter_of_another_precision_is_asked_and_the_answer_says_so() {
    let place = Place::new();
    place.json(&["quickstart", "--smoke"]);
    // The same weights as a machine with bf16 products would have filed them.
    let outline = Outline::load(Path::new(&tiny()), Precision::F32).unwrap();
    let mut store = Store::open(&place.path("store")).unwrap();
    let of = Filter::all().and("family = topic").unwrap();
    let record = store.adapters(&of).unwrap().remove(0);
    let mut new = NewAdapter::of_spec(
        json!({"made": "with bf16"}),
        "topic/elsewhere",
        record.peft.clone(),
        store.weights(&record).unwrap(),
    );
    new.lineage.insert("base".into(), outline.digest_at(Precision::Bf16));
    let id = store.commit_adapter(new).unwrap().id;
    drop(store);
    let ask = ["dit", "ask", "topic/elsewhere", "What topic have you been trained on?"];
    let out = place.run(&[&["--json"][..], &ask].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&answer["precision"]["here"], &answer["precision"]["made_with"][&id]),
        (&"f32".into(), &"bf16".into())
    );
    assert_eq!(text(&out.stderr).matches("made with bf16 products, used with f32").count(), 1);
    // Of the same precision nothing is said.
    let same = place.json(&["dit", "ask", &record.id, "What topic have you been trained on?"]);
    assert!(same["precision"].is_null(), "{same}");
    let spec = std::fs::read_to_string(look(&place))
        .unwrap()
        .replace("\"op\":\"generate\"", "\"model\":{\"adapters\":[\"topic/elsewhere\"]},\"op\":\"generate\"");
    std::fs::write(place.path("theirs.json"), spec).unwrap();
    let found = place.json(&["intervention", "run", place.path("theirs.json").to_str().unwrap()]);
    assert_eq!(found["precision"]["made_with"][&id], "bf16", "{found}");
}
