//! A store that somebody else writes and this user may only read.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use registry::{NewAdapter, PeftConfig, Store};
use support::{Place, assert_error, text, tiny};

/// Runs commands where `run` is the binary as a user who may not write the store `name`. Root may write anything, so they run as nobody
/// where the tests run as root.
fn as_reader(place: &Place, name: &str, commands: &str) -> Output {
    let nobody = "if [ $(id -u) = 0 ]; then drop='setpriv --reuid=65534 --regid=65534 --clear-groups'; fi";
    let copy = place.path("lorafab");
    if !copy.exists() {
        std::fs::copy(assert_cmd::cargo::cargo_bin("lorafab"), &copy).unwrap();
    }
    let text = format!(
        "cd {}; {nobody}; chmod 755 . lorafab; chmod -R a-w,a+rX {name}; export HOME=$PWD; run() {{ $drop ./lorafab --store {name} \"$@\"; }}; {commands}",
        place.folder.path().display()
    );
    Command::new("bash").args(["-c", &text]).output().unwrap()
}

/// So that the folder can be removed.
fn give_back(place: &Place, name: &str) {
    Command::new("chmod").args(["-R", "u+w"]).arg(place.path(name)).status().unwrap();
}

#[test]
fn a_read_only_store_can_be_looked_at_and_nothing_else() {
    let place = Place::new();
    place.json(&["factory", "submit", "topic", "--limit", "1"]);
    assert!(place.run(&["factory", "run"]).status.success());
    let list = place.json(&["adapter", "list"]);
    let name = list["adapters"][0]["behaviour"].as_str().unwrap();
    assert!(place.run(&["read", name]).status.success());
    let look = "run --json adapter list && run registry stats && run factory status && run adapter verify && run registry check";
    let read = as_reader(&place, "store", look);
    assert!(read.status.success(), "{}{}", text(&read.stdout), text(&read.stderr));
    assert!(text(&read.stdout).contains("topic/"), "{}", text(&read.stdout));
    assert!(!text(&read.stderr).contains("old view"), "{}", text(&read.stderr));
    // A reading whose twins are kept is made again, and not kept.
    let tiny_here =
        format!("cp -r {} here; chmod -R a+rX here; run --model here read {name} --again", tiny());
    let reading = as_reader(&place, "store", &tiny_here);
    assert!(
        reading.status.success() && text(&reading.stdout).contains("verdict"),
        "{}",
        text(&reading.stderr)
    );
    let submit =
        format!("cp -r {} tiny; chmod -R a+rX tiny; run --model tiny factory submit topic --limit 2", tiny());
    let refused = as_reader(&place, "store", &submit);
    let stderr = text(&refused.stderr);
    assert!(stderr.contains("can only be read") && stderr.contains("--store DIR"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let again = as_reader(&place, "store", "run --json adapter list");
    assert_eq!(text(&read.stdout).lines().next(), text(&again.stdout).lines().next());
    give_back(&place, "store");
}

fn adapter(behaviour: &str) -> NewAdapter {
    NewAdapter::of_spec(
        serde_json::json!({ "behaviour": behaviour }),
        behaviour,
        PeftConfig::of_rank("m", 1, &["q_proj"]),
        behaviour.as_bytes().to_vec(),
    )
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// What a writer has committed is seen while it works and after it was killed, though it lies in the log.
#[test]
fn a_reader_sees_what_a_writer_commits_and_what_a_killed_one_committed() {
    let place = Place::new();
    let mut store = Store::open(&place.path("store")).unwrap();
    store.commit_adapter(adapter("topic/dogs")).unwrap();
    // Closed, its log goes into the catalogue.
    drop(store);
    let mut store = Store::open(&place.path("store")).unwrap();
    store.commit_adapter(adapter("topic/cats")).unwrap();
    assert!(place.path("store/catalogue.sqlite-wal").metadata().unwrap().len() > 0, "nothing is in the log");
    // As a kill leaves it: the log and its index lie there, and nobody holds them.
    copy(&place.path("store"), &place.path("killed"));
    copy(&place.path("store"), &place.path("hidden"));
    copy(&place.path("store"), &place.path("copied"));
    std::fs::remove_file(place.path("copied/catalogue.sqlite-shm")).unwrap();
    let look = "run --json adapter list && run registry check";
    for name in ["store", "killed"] {
        let read = as_reader(&place, name, look);
        let (stdout, stderr) = (text(&read.stdout), text(&read.stderr));
        assert!(read.status.success(), "{name}: {stdout}{stderr}");
        assert!(stdout.contains("topic/cats"), "{name}: {stdout}{stderr}");
        assert!(!stderr.contains("old view"), "{name}: {stderr}");
    }
    // A log that may not be read, or that SQLite would have to write beside: an old view, which says so, and no problem made of it.
    for (name, hide) in [("hidden", "chmod 0 hidden/catalogue.sqlite-wal;"), ("copied", "")] {
        let read = as_reader(&place, name, &format!("{hide} {look}"));
        let (stdout, stderr) = (text(&read.stdout), text(&read.stderr));
        assert!(read.status.success() && stdout.contains("topic/dogs"), "{name}: {stdout}{stderr}");
        let seen = stdout.contains("topic/cats");
        assert!(seen || stderr.contains("this may be an old view"), "{name}: {stdout}{stderr}");
        assert!(name != "hidden" || !seen, "{stdout}");
    }
    drop(store);
    for name in ["store", "killed", "hidden", "copied"] {
        give_back(&place, name);
    }
}

#[test]
fn a_path_too_long_for_the_catalogue_is_said_and_nothing_is_made() {
    let place = Place::new();
    let long = place.path(&["x".repeat(200), "y".repeat(200), "z".repeat(120)].join("/"));
    let out = place.in_store(long.to_str().unwrap(), &["factory", "submit", "topic", "--limit", "1"]);
    assert_error(&out, 5, &["SQLite opens paths of up to 504", "--store DIR"]);
    assert!(!place.path(&"x".repeat(200)).exists());
    // One byte less than the limit is opened.
    let room = 504 - place.folder.path().as_os_str().len() - "/catalogue.sqlite".len();
    let fits = [200, 200].iter().fold((String::new(), room), |(path, left), n| {
        let n = (*n).min(left.saturating_sub(1));
        (format!("{path}/{}", "a".repeat(n)), left - n - 1)
    });
    let (mut name, left) = fits;
    if left > 1 {
        name = format!("{name}/{}", "b".repeat(left - 1));
    }
    let name = name.trim_start_matches('/');
    let store = place.path(name);
    assert_eq!(store.join("catalogue.sqlite").as_os_str().len(), 504);
    assert!(Store::open(&store).is_ok());
    let longer = place.path(&format!("{name}c"));
    assert!(Store::open(&longer).unwrap_err().to_string().contains("SQLite opens paths"));
}
