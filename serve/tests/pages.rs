//! The site on stores made here: every page answers, hostile names are text, and what is not asked for by its own name is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use registry::{NewAdapter, PeftConfig, Store};
use serve::Site;
use support::{HOSTILE, ask, get, site};

/// A store with an adapter for each name.
fn store(root: &Path, names: &[&str]) -> Vec<String> {
    let mut store = Store::open(root).unwrap();
    names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let spec = serde_json::json!({"behaviour": {"id": name, "seed": i}});
            let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
            let mut new = NewAdapter::of_spec(spec, name, peft, format!("weights {i}").into_bytes());
            new.tags.insert("note".into(), HOSTILE.into());
            new.metrics.insert("gate_on".into(), i as f64 / 10.0);
            store.commit_adapter(new).unwrap().id
        })
        .collect()
}

#[test]
fn pages_list_filter_sort_and_show_what_is_there_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let ids = store(&root, &["topic/bees", "topic/cats", &format!("odd/{HOSTILE}")]);
    let (_runtime, address) = site(&root);
    let (status, all) = get(address, "/adapters");
    assert_eq!(status, 200);
    assert!(all.contains("topic/bees") && all.contains("3 of them"), "{all}");
    for part in ["<script>alert", "\u{1b}", "\u{202e}"] {
        assert!(!all.contains(part), "{part:?}");
    }
    assert!(all.contains("content-security-policy: default-src 'none'"), "{all}");
    let (_, some) = get(address, "/adapters?where=value%20like%20%27b*%27");
    assert!(some.contains("topic/bees") && !some.contains("topic/cats"));
    let (_, word) = get(address, "/adapters?where=cats");
    assert!(word.contains("topic/cats") && !word.contains("topic/bees"));
    let (_, sorted) = get(address, "/adapters?sort=-gate_on");
    assert!(sorted.find("topic/cats").unwrap() < sorted.find("topic/bees").unwrap());
    // What cannot be read is said, and everything is shown.
    let (status, wrong) = get(address, "/adapters?where=family%20%3D");
    assert!(status == 200 && wrong.contains("expected a value") && wrong.contains("topic/bees"), "{wrong}");
    let (status, one) = get(address, &format!("/adapter/{}", ids[2]));
    assert_eq!(status, 200);
    assert!(one.contains("&lt;script&gt;alert(1)") && !one.contains("<script>alert"), "{one}");
    assert_eq!(get(address, "/adapter/nothing").0, 404);
    for page in ["/queue", "/runs", "/live.js"] {
        assert_eq!(get(address, page).0, 200, "{page}");
    }
    for page in ["/run/none", "/run/..%2f..%2fetc", "/adapters/../x", "/etc/passwd", "/run/none/items"] {
        assert_eq!(get(address, page).0, 404, "{page}");
    }
    let mut events = TcpStream::connect(address).unwrap();
    write!(events, "GET /queue/events HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    events.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("data: ") {
        let n = events.read(&mut buffer).unwrap();
        assert!(n > 0, "{seen}");
        seen += &String::from_utf8_lossy(&buffer[..n]);
    }
    assert!(seen.contains("text/event-stream"), "{seen}");
}

#[test]
fn only_questions_by_its_own_name_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    store(&root, &["topic/bees"]);
    let (_runtime, address) = site(&root);
    let with = |method: &str, host: &str| {
        ask(address, &format!("{method} /adapters HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).0
    };
    let own = address.to_string();
    for (method, host, status) in [
        ("GET", own.as_str(), 200),
        ("HEAD", own.as_str(), 200),
        ("POST", own.as_str(), 405),
        ("PUT", own.as_str(), 405),
        ("DELETE", own.as_str(), 405),
        ("OPTIONS", own.as_str(), 405),
        ("GET", "evil.example", 421),
        ("GET", "127.0.0.1:1", 421),
    ] {
        assert_eq!(with(method, host), status, "{method} {host}");
    }
    assert_eq!(get(address, &format!("/adapters?where={}", "a".repeat(9000))).0, 414);
}

#[test]
fn a_writer_is_seen_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    store(&root, &["topic/bees"]);
    let (_runtime, address) = site(&root);
    assert!(get(address, "/adapters").1.contains("1 of them"));
    let mut writer = Store::open(&root).unwrap();
    // While somebody writes, the pages show what was there before.
    writer
        .transaction(|t| {
            t.execute("DELETE FROM cache", [])?;
            assert!(get(address, "/adapters").1.contains("1 of them"));
            Ok(())
        })
        .unwrap();
    let spec = serde_json::json!({"behaviour": {"id": "topic/dogs"}});
    let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
    writer.commit_adapter(NewAdapter::of_spec(spec, "topic/dogs", peft, b"w".to_vec())).unwrap();
    assert!(get(address, "/adapters").1.contains("2 of them"));
}

#[test]
fn what_cannot_be_served_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = |root: &Path, at: &str| runtime.block_on(Site::open(root, at.parse().unwrap()));
    let none = open(&folder.path().join("none"), "127.0.0.1:0").unwrap_err().to_string();
    assert!(!none.contains('\n') && none.contains("none"), "{none}");
    assert!(!folder.path().join("none").exists());
    let root = folder.path().join("store");
    store(&root, &["topic/bees"]);
    let first = open(&root, "127.0.0.1:0").unwrap();
    let used = open(&root, &first.address().to_string()).unwrap_err().to_string();
    assert!(used.contains(&first.address().to_string()) && used.contains("cannot be listened on"), "{used}");
}

/// A store of the version before, as its upgrade begins.
#[test]
fn a_store_that_is_being_upgraded_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    store(&root, &["topic/bees"]);
    let (_runtime, address) = site(&root);
    assert_eq!(get(address, "/adapters").0, 200);
    Store::open(&root)
        .unwrap()
        .transaction(|t| t.execute_batch("DROP INDEX fields_words; PRAGMA user_version = 4"))
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let old = runtime.block_on(Site::open(&root, "127.0.0.1:0".parse().unwrap())).unwrap_err().to_string();
    assert!(
        !old.contains('\n') && old.contains("catalogue.sqlite") && old.contains("schema version 4"),
        "{old}"
    );
    // Whoever opens it to write upgrades it; a site that runs goes on.
    assert_eq!(get(address, "/adapters").0, 200);
    drop(Store::open(&root).unwrap());
    assert!(get(address, "/adapters?where=bees").1.contains("1 of them"));
    assert!(runtime.block_on(Site::open(&root, "127.0.0.1:0".parse().unwrap())).is_ok());
}
