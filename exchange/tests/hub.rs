//! Pushing to and pulling from a Hub that keeps state, fails when told to, and may be hostile.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod stub;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use exchange::Error;
use exchange::hub::{
    Client, Options, Patience, Place, Pulled, Pushed, RepoKind, Token, pull, push, push_plan,
};
use registry::{AdapterRecord, Filter, NewAdapter, PeftConfig, Store};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stub::{Fault, File, Stub, TOKEN};

type Tamper<'a> = Box<dyn Fn(&Stub) + 'a>;

const REPO: &str = "org/set";

fn weights(fill: f32) -> Vec<u8> {
    let a: Vec<u8> = (0..8).flat_map(|_| fill.to_le_bytes()).collect();
    let b: Vec<u8> = (0..6).flat_map(|_| 0.5f32.to_le_bytes()).collect();
    let views = (0..2).flat_map(|layer| {
        let name = format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
        let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        [
            (format!("{name}.lora_A.weight"), view(&[2, 4], &a)),
            (format!("{name}.lora_B.weight"), view(&[3, 2], &b)),
        ]
    });
    safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
}

/// A store with adapters of four files each, one of them the same in all.
fn store_of(folder: &Path, names: &[&str]) -> (Store, Vec<AdapterRecord>) {
    let mut store = Store::open(folder).unwrap();
    for name in names {
        // Each name has its own weights.
        let fill = name.bytes().map(f32::from).sum::<f32>() / 100.0;
        let spec = serde_json::json!({"name": name});
        store
            .commit_adapter(NewAdapter {
                category: "animals".into(),
                split: Some("train".into()),
                tags: BTreeMap::from([("note".to_owned(), "ü".to_owned())]),
                metrics: BTreeMap::from([("gate_on".to_owned(), 0.75)]),
                parents: vec!["p".into()],
                lineage: BTreeMap::from([("base".to_owned(), "b".to_owned())]),
                extra_files: BTreeMap::from([("recipe.json".to_owned(), b"{}".to_vec())]),
                ..NewAdapter::of_spec(
                    spec,
                    &format!("topic/{name}"),
                    PeftConfig::of_rank("m", 2, &["q_proj"]),
                    weights(fill),
                )
            })
            .unwrap();
    }
    let records = store.adapters(&Filter::all()).unwrap();
    (store, records)
}

/// An adapter made from a specification of its own.
fn made(behaviour: &str, peft: PeftConfig, weights: Vec<u8>) -> NewAdapter {
    NewAdapter::of_spec(serde_json::json!({ "made": behaviour }), behaviour, peft, weights)
}

fn options(stub: &Stub, tries: u32) -> Options {
    Options {
        endpoint: stub.address.clone(),
        token: Token::new(TOKEN),
        patience: Patience { tries, first: Duration::from_millis(1), longest: Duration::from_secs(1) },
        certificates: vec![],
        uploads: 1,
        stop: || false,
    }
}

fn client(stub: &Stub, tries: u32) -> Client {
    let place = Place::new(RepoKind::Dataset, REPO, "main").unwrap();
    Client::new(options(stub, tries), place).unwrap()
}

fn pushed(store: &Store, records: &[AdapterRecord], client: &Client) -> Result<Pushed, Error> {
    let remote = client.look()?;
    let plan = push_plan(store, records, client, &remote)?;
    push(store, &plan, client, &remote, false, &mut |_| {})
}

fn pulled(store: &mut Store, client: &Client) -> Result<Pulled, Error> {
    let remote = client.look()?;
    pull(store, client, &remote, &|_, _| Ok(()), &mut |_| {})
}

#[track_caller]
fn same(a: &Store, b: &Store) {
    let (left, right) = (a.adapters(&Filter::all()).unwrap(), b.adapters(&Filter::all()).unwrap());
    assert_eq!(left, right);
    for record in &left {
        for digest in std::iter::once(&record.weights).chain(record.extra_files.values()) {
            assert_eq!(a.get_blob(digest).unwrap(), b.get_blob(digest).unwrap());
        }
    }
    assert!(b.check(&|_, _| {}).unwrap().problems.is_empty());
}

#[test]
fn what_is_pushed_comes_back_as_it_was_and_a_second_time_nothing_moves() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats", "dogs", "bees"]);
    let stub = Stub::new();
    stub.state().page = 2;
    let client = client(&stub, 1);
    let done = pushed(&store, &records, &client).unwrap();
    assert_eq!((done.created, done.sent, done.files, done.commits), (true, 3, 12, 2));
    assert!(stub.state().repos["datasets/org/set"].private);
    // The same bytes as the folder that `adapter dataset` writes.
    let set = folder.path().join("set");
    exchange::dataset::export(&store, &records, &set).unwrap();
    let files = stub.files(REPO);
    // Twelve of adapters, the index, its table and card, and what the Hub makes itself.
    assert_eq!(files.len(), 16);
    for (path, bytes) in files.iter().filter(|(p, _)| *p != ".gitattributes") {
        assert_eq!(&std::fs::read(set.join(path)).unwrap(), bytes, "{path}");
    }
    stub.reset(None);
    let again = pushed(&store, &records, &client).unwrap();
    assert_eq!(again, Pushed::default());
    assert!(stub.requests().iter().all(|r| r.starts_with("GET")), "{:?}", stub.requests());

    let mut other = Store::open(&folder.path().join("b")).unwrap();
    assert_eq!(pulled(&mut other, &client).unwrap().added.len(), 3);
    same(&store, &other);
    stub.reset(None);
    assert_eq!(pulled(&mut other, &client).unwrap().known.len(), 3);
    assert!(stub.requests().iter().all(|r| !r.contains("adapters/")), "{:?}", stub.requests());
    assert_eq!(std::fs::read_dir(folder.path().join("b/staging")).unwrap().count(), 0);
    assert_eq!(stub.state().leaks, 0, "the storage was told the token");
}

#[test]
fn a_push_that_fails_at_any_request_goes_on_and_puts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats", "dogs"]);
    let whole = Stub::new();
    pushed(&store, &records, &client(&whole, 1)).unwrap();
    let (requests, expected) = (whole.requests().len(), whole.files(REPO));
    assert!(requests > 12, "{requests}");
    for fault in [Fault::Cut, Fault::Unanswered, Fault::Status(503), Fault::Status(429)] {
        for k in 0..requests {
            let stub = Stub::new();
            stub.reset(Some((k, fault)));
            let first = pushed(&store, &records, &client(&stub, 1));
            let puts = stub.state().puts;
            stub.reset(None);
            pushed(&store, &records, &client(&stub, 1)).unwrap();
            assert_eq!(stub.files(REPO), expected, "{fault:?} at {k}");
            let state = stub.state();
            assert!(first.is_err(), "{fault:?} at {k}");
            assert_eq!((state.puts_again, state.leaks), (0, 0), "{fault:?} at {k}");
            assert_eq!(puts + state.puts, 2, "{fault:?} at {k}");
        }
    }
}

#[test]
fn trouble_that_passes_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats", "dogs"]);
    let stub = Stub::new();
    stub.state().faults = (0..40)
        .filter(|n| n % 3 != 2)
        .map(|n| (n, [Fault::Status(429), Fault::Cut, Fault::Status(502), Fault::Unanswered][n % 4]))
        .collect();
    pushed(&store, &records, &client(&stub, 8)).unwrap();
    // Also where the answer to an upload was lost.
    assert_eq!(stub.state().puts_again, 0);
    let requests = stub.requests().len();
    stub.state().faults = (requests..requests + 60)
        .filter(|n| n % 5 == 0)
        .map(|n| (n, [Fault::Status(429), Fault::Cut, Fault::Status(502)][n % 3]))
        .collect();
    let mut other = Store::open(&folder.path().join("b")).unwrap();
    assert_eq!(pulled(&mut other, &client(&stub, 8)).unwrap().added.len(), 2);
    same(&store, &other);
}

#[test]
fn a_pull_that_fails_at_any_request_leaves_whole_adapters_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats", "dogs"]);
    let stub = Stub::new();
    pushed(&store, &records, &client(&stub, 1)).unwrap();
    let client = client(&stub, 1);
    stub.reset(None);
    pulled(&mut Store::open(&folder.path().join("b")).unwrap(), &client).unwrap();
    let requests = stub.requests().len();
    for k in 0..requests {
        stub.reset(Some((k, Fault::Cut)));
        let mut other = Store::open(&folder.path().join(format!("c{k}"))).unwrap();
        let error = pulled(&mut other, &client).unwrap_err();
        assert!(matches!(error, Error::Hub { .. }), "{error:?}");
        assert!(other.check(&|_, _| {}).unwrap().problems.is_empty());
        assert!(other.adapters(&Filter::all()).unwrap().iter().all(|r| records.contains(r)));
        stub.reset(None);
        let done = pulled(&mut other, &client).unwrap();
        assert_eq!(done.added.len() + done.known.len(), 2);
        same(&store, &other);
    }
}

#[test]
fn commits_stay_below_a_hundred_files_and_uploads_run_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..60).map(|i| format!("v{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (store, records) = store_of(&folder.path().join("a"), &names);
    let stub = Stub::new();
    stub.state().part = Some(100);
    let place = Place::new(RepoKind::Dataset, REPO, "main").unwrap();
    let client = Client::new(Options { uploads: 4, ..options(&stub, 1) }, place).unwrap();
    let done = pushed(&store, &records, &client).unwrap();
    // 24 adapters of four files fit into a commit.
    assert_eq!((done.sent, done.files, done.commits), (60, 240, 4));
    let changed: Vec<usize> =
        stub.state().repos["datasets/org/set"].branches["main"].iter().map(|c| c.changed).collect();
    // Last the index, as lines and as a table, with a card.
    assert_eq!(changed, [1, 96, 96, 48, 3]);
    let mut other = Store::open(&folder.path().join("b")).unwrap();
    assert_eq!(pulled(&mut other, &client).unwrap().added.len(), 60);
    same(&store, &other);
}

#[test]
fn a_shared_repository_keeps_everybodys_adapters_also_in_a_race() {
    let folder = tempfile::tempdir().unwrap();
    let (one, mine) = store_of(&folder.path().join("a"), &["cats"]);
    let (two, theirs) = store_of(&folder.path().join("b"), &["dogs", "cats"]);
    let stub = Stub::new();
    let client = client(&stub, 1);
    pushed(&one, &mine, &client).unwrap();
    let index = |stub: &Stub| String::from_utf8(stub.files(REPO)["index.jsonl"].clone()).unwrap();
    let first = index(&stub);
    // While the second one writes the index, somebody else adds a line.
    let foreign = first
        .replace(&mine[0].id, &format!("ab{}", "0".repeat(30)))
        .replace(&format!("adapters/{}/", &mine[0].id[..2]), "adapters/ab/");
    stub.state().race = Some(("index.jsonl".into(), format!("{first}{foreign}").into_bytes()));
    pushed(&two, &theirs[1..], &client).unwrap();
    let ids: Vec<String> = index(&stub)
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(
        ids.contains(&mine[0].id)
            && ids.contains(&theirs[1].id)
            && ids.iter().any(|i| i.starts_with("ab000"))
    );
    // A changed tag is one file and the index.
    let tagged = one.adapters(&Filter::all()).unwrap();
    let mut one = one;
    one.tag(&tagged[0].id, &[("reviewed", Some("yes"))]).unwrap();
    let records = one.adapters(&Filter::all()).unwrap();
    let done = pushed(&one, &records, &client).unwrap();
    assert_eq!((done.files, done.commits, index(&stub).contains("reviewed")), (1, 2, true));
}

#[test]
fn other_revisions_and_models_have_their_own_place() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats"]);
    let stub = Stub::new();
    let place = Place::new(RepoKind::Model, REPO, "next/try").unwrap();
    let client = Client::new(options(&stub, 1), place).unwrap();
    let done = pushed(&store, &records, &client).unwrap();
    assert!(done.created && done.index_updated);
    {
        let state = stub.state();
        let branches = &state.repos["models/org/set"].branches;
        assert_eq!(branches["main"].last().unwrap().files.len(), 1);
        assert_eq!(branches["next/try"].last().unwrap().files.len(), 8);
    }
    let mut other = Store::open(&folder.path().join("b")).unwrap();
    assert_eq!(pulled(&mut other, &client).unwrap().added.len(), 1);
    same(&store, &other);
}

#[test]
fn missing_rights_are_named_and_the_token_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats"]);
    let mut other = Store::open(&folder.path().join("b")).unwrap();
    let stub = Stub::new();
    let with = |token: Option<&str>| {
        let place = Place::new(RepoKind::Dataset, REPO, "main").unwrap();
        Client::new(Options { token: token.and_then(Token::new), ..options(&stub, 1) }, place).unwrap()
    };
    let says = |error: Error, parts: &[&str]| {
        let text = format!("{error} {error:?}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!text.contains(TOKEN) && !text.contains("hf_other"), "{text}");
    };
    let absent = pulled(&mut other, &with(Some(TOKEN))).unwrap_err();
    says(absent, &["no dataset org/set", "main", "may not see it", "Absent"]);
    says(pulled(&mut other, &with(None)).unwrap_err(), &["org/set", "there is no token", "Right"]);
    says(
        pushed(&store, &records, &with(Some("hf_other"))).unwrap_err(),
        &["org/set", "wrong or has expired"],
    );
    stub.state().may_not_write = true;
    says(
        pushed(&store, &records, &with(Some(TOKEN))).unwrap_err(),
        &["may not write to dataset org/set", "403"],
    );
    stub.state().may_not_write = false;
    pushed(&store, &records, &with(Some(TOKEN))).unwrap();
    says(pulled(&mut other, &with(None)).unwrap_err(), &["org/set", "no token"]);
    stub.reset(Some((0, Fault::Status(500))));
    says(pulled(&mut other, &with(Some(TOKEN))).unwrap_err(), &["status 500", "Network"]);
    let dead = Options { endpoint: "http://127.0.0.1:1".into(), ..options(&stub, 2) };
    let dead = Client::new(dead, Place::new(RepoKind::Dataset, REPO, "main").unwrap()).unwrap();
    says(pulled(&mut other, &dead).unwrap_err(), &["cannot be reached"]);
    let stopped = Options { stop: || true, ..options(&stub, 1) };
    let stopped = Client::new(stopped, Place::new(RepoKind::Dataset, REPO, "main").unwrap()).unwrap();
    says(pulled(&mut other, &stopped).unwrap_err(), &["Stopped"]);
    assert!(!format!("{:?}", with(Some(TOKEN))).contains(TOKEN));
}

#[test]
fn a_hostile_repository_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats", "dogs"]);
    let (cats, place) = (&records[0], format!("adapters/{}/{}", &records[0].id[..2], records[0].id));
    let fresh = || {
        let stub = Stub::new();
        pushed(&store, &records, &client(&stub, 1)).unwrap();
        stub
    };
    let edited = |stub: &Stub, path: &str, from: &str, to: &str| {
        let text = String::from_utf8(stub.files(REPO)[path].clone()).unwrap();
        assert!(text.contains(from), "{from} is not in {path}");
        let text = text.replace(from, to);
        stub.tamper(REPO, |f| drop(f.insert(path.into(), File::Regular(text.into_bytes()))));
    };
    let mut n = 0;
    // The whole index is refused: nothing else is even asked for.
    for (from, to, part) in [
        (place.as_str(), "../../../../tmp/x", "another folder"),
        (place.as_str(), "/etc", "another folder"),
        (cats.id.as_str(), "../../../../../../../etc/passwd00", "an id that is none"),
        ("topic/cats", "topic/\\u001b[2J", "control characters"),
        ("{", "[", "not about an adapter"),
    ] {
        let stub = fresh();
        edited(&stub, "index.jsonl", from, to);
        stub.reset(None);
        n += 1;
        let mut other = Store::open(&folder.path().join(format!("i{n}"))).unwrap();
        let error = pulled(&mut other, &client(&stub, 1)).unwrap_err().to_string();
        assert!(error.contains("index.jsonl") && error.contains(part), "{error}");
        assert!(other.adapters(&Filter::all()).unwrap().is_empty());
        assert!(stub.requests().iter().all(|r| !r.contains("resolve") || r.contains("index.jsonl")));
        // And no push writes over it.
        assert!(pushed(&store, &records, &client(&stub, 1)).unwrap_err().to_string().contains(part));
    }
    // One adapter is refused, the other one comes.
    let card = format!("{place}/lorafab.json");
    let large = |bytes: Vec<u8>| {
        let name = format!("{place}/adapter_model.safetensors");
        move |stub: &Stub| {
            let oid = stub::sha256(&bytes);
            stub.state().objects.insert(oid.clone(), bytes.clone());
            stub.tamper(REPO, |f| drop(f.insert(name.clone(), File::Large(oid))));
        }
    };
    let edit = |from: &str, to: &str| {
        let (card, from, to) = (card.clone(), from.to_owned(), to.to_owned());
        Box::new(move |stub: &Stub| edited(stub, &card, &from, &to)) as Tamper<'_>
    };
    let config = format!("{place}/adapter_config.json");
    let nan = weights(f32::NAN);
    let mut other_bytes = store.weights(cats).unwrap();
    *other_bytes.last_mut().unwrap() ^= 1;
    let tampered: Vec<(Tamper<'_>, &str)> = vec![
        (Box::new(large(other_bytes)), "its digest differs"),
        (Box::new(large(vec![0; 5_000_000])), "5000000 bytes, more than"),
        (Box::new(large(nan)), "its digest differs"),
        (edit("recipe.json", "../../recipe.json"), "not a name"),
        (edit("recipe.json", "adapter_config.json"), "write over"),
        (edit("\"value\": \"cats\"", "\"value\": \"\\u001b[2J\""), "control characters"),
        (edit("\"spec_hash\": \"", "\"spec_hash\": \"0"), "id is not that of its files"),
        (edit("\"r\": 2", "\"r\": 4"), "lorafab.json says"),
        (edit("\"weights_bytes\": ", "\"weights_bytes\": 9"), "index names"),
        (edit("{", "["), "lorafab.json"),
        (
            Box::new(|stub: &Stub| edited(stub, &config, "\"use_dora\": false", "\"use_dora\": true")),
            "use_dora is not implemented",
        ),
        (Box::new(|stub: &Stub| stub.tamper(REPO, |f| drop(f.remove(&config)))), "not in the repository"),
    ];
    for (tamper, part) in &tampered {
        let stub = fresh();
        tamper(&stub);
        n += 1;
        let mut other = Store::open(&folder.path().join(format!("i{n}"))).unwrap();
        let done = pulled(&mut other, &client(&stub, 1)).unwrap();
        assert_eq!((done.added.len(), done.refused.len()), (1, 1), "{part}: {done:?}");
        let refused = &done.refused[0];
        assert!(refused.id == cats.id && refused.why.contains(part), "{part}: {}", refused.why);
        assert!(!refused.why.contains('\u{1b}'));
        assert_eq!(other.adapters(&Filter::all()).unwrap(), &records[1..]);
        assert!(other.check(&|_, _| {}).unwrap().problems.is_empty());
        // One push mends the repository, and the same pull goes on.
        pushed(&store, &records, &client(&stub, 1)).unwrap();
        assert_eq!(pulled(&mut other, &client(&stub, 1)).unwrap().added, std::slice::from_ref(&cats.id));
    }
    // Weights that are honestly numbered and no numbers, and a norm that is refused by whoever weighs.
    let mut bad = Store::open(&folder.path().join("nan")).unwrap();
    let peft = PeftConfig::of_rank("m", 2, &["q_proj"]);
    bad.commit_adapter(made("topic/nan", peft.clone(), weights(f32::NAN))).unwrap();
    bad.commit_adapter(made("topic/keys", peft, vec![1, 2, 3])).unwrap();
    let stub = Stub::new();
    pushed(&bad, &bad.adapters(&Filter::all()).unwrap(), &client(&stub, 1)).unwrap();
    let mut other = Store::open(&folder.path().join("nan2")).unwrap();
    let done = pulled(&mut other, &client(&stub, 1)).unwrap();
    let whys: Vec<&str> = done.refused.iter().map(|r| r.why.as_str()).collect();
    assert!(whys.len() == 2 && whys[0].contains("safetensors file") && whys[1].contains("NaN"), "{whys:?}");
}

#[test]
fn an_adapter_that_the_store_made_otherwise_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records) = store_of(&folder.path().join("a"), &["cats"]);
    let stub = Stub::new();
    pushed(&store, &records, &client(&stub, 1)).unwrap();
    let mut other = Store::open(&folder.path().join("b")).unwrap();
    let peft = PeftConfig::of_rank("m", 2, &["q_proj"]);
    let own = NewAdapter::bare(&records[0].spec_hash, "topic/cats", peft, weights(7.0));
    let own = other.commit_adapter(own).unwrap();
    let done = pulled(&mut other, &client(&stub, 1)).unwrap();
    assert_eq!(done.made_otherwise, std::slice::from_ref(&records[0].id));
    assert_eq!(other.adapters(&Filter::all()).unwrap(), [own]);
}
