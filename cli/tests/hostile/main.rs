//! What strangers may send: every case is a command on an input made to do harm, in a sandbox of its own under limits. It must end
//! in time, with an exit code that is documented, one sentence and no panic; nothing raw reaches the terminal; and what lies outside
//! its folder is afterwards as it was before.
//!
//! `LORAFAB_HOSTILE=models cargo test --release -p lorafab --test hostile` runs the cases whose names hold that.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(
    clippy::semicolon_if_nothing_returned,
    clippy::needless_for_each,
    clippy::format_push_string,
    clippy::large_stack_arrays,
    reason = "a case is one line"
)]

mod adapters;
mod bundles;
mod files;
mod hub;
mod models;
mod pickles;
mod stores;
mod templates;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How a case must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With an error: exit code 2, 3 or 5.
    Refused,
    /// With an error, or fine: the input does no harm once it is bounded.
    Bounded,
}

/// One input and the command that reads it. The command runs in the sandbox's folder `in`; `$TINY` stands for the tiny model.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) end: End,
    /// Makes the input; what it returns must be in the error.
    pub(crate) make: Box<dyn Fn(&Path) -> String + Sync + Send>,
    pub(crate) variables: Vec<(String, String)>,
}

pub(crate) fn case(
    name: impl Into<String>,
    end: End,
    args: &str,
    make: impl Fn(&Path) + Sync + Send + 'static,
) -> Case {
    Case {
        name: name.into(),
        args: args.split(' ').map(str::to_owned).collect(),
        end,
        make: Box::new(move |folder| {
            make(folder);
            String::new()
        }),
        variables: vec![],
    }
}

/// Folder of the tiny model.
pub(crate) fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny").canonicalize().unwrap()
}

pub(crate) fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// A spec that asks the base model: reads a model and nothing else.
pub(crate) fn look(folder: &Path) {
    let spec = json!({"v": 1, "inputs": {"x": {"chat": {"user": "Tell me a thing."}}}, "out": [], "steps": [
        {"op": "generate", "id": "reply", "input": "x", "sample": {"max": 1}}]});
    put(&folder.join("look.json"), spec.to_string());
}

/// A store that the tiny model made, with two adapters; a copy for each case.
pub(crate) fn store(to: &Path) {
    static MADE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for args in [&["factory", "submit", "topic", "--limit", "2"][..], &["factory", "run"]] {
            let out =
                binary(folder.path()).args(["--store", "store", "--model"]).arg(tiny()).args(args).output();
            let out = out.unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        folder
    });
    copy(&MADE.path().join("store"), to);
}

/// An honest PEFT folder of the tiny model, exported from that store.
pub(crate) fn adapter(to: &Path) {
    static MADE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        store(&folder.path().join("store"));
        let list =
            binary(folder.path()).args(["--store", "store", "--json", "adapter", "list"]).output().unwrap();
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        let id = list["adapters"][0]["id"].as_str().unwrap().to_owned();
        let done = binary(folder.path())
            .args(["--store", "store", "adapter", "export", &id, "out"])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder
    });
    copy(&MADE.path().join("out"), to);
}

/// The behaviour of the store's first adapter.
fn name_of_one() -> String {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        store(&folder.path().join("store"));
        let list =
            binary(folder.path()).args(["--store", "store", "--json", "adapter", "list"]).output().unwrap();
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        list["adapters"][0]["behaviour"].as_str().unwrap().to_owned()
    });
    NAME.clone()
}

fn binary(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lorafab"));
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("LORAFAB_CACHE", folder.join("cache"))
        .arg("--precision")
        .arg("f32");
    command
}

/// Every file below a folder, links as such, with its bytes.
fn picture(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
                out.insert(entry.path(), b"folder".to_vec());
            } else if kind.is_file() {
                out.insert(entry.path(), std::fs::read(entry.path()).unwrap());
            } else {
                out.insert(entry.path(), b"other".to_vec());
            }
        }
    }
    out
}

/// Seconds that a case may take, and bytes of memory, all its processes together.
const SECONDS: u64 = 30;
const MEMORY: u64 = 4 << 30;

fn run(case: &Case) -> Result<(), String> {
    let sandbox = tempfile::tempdir().unwrap();
    let (inside, outside) = (sandbox.path().join("in"), sandbox.path().join("outside"));
    std::fs::create_dir(&inside).unwrap();
    // What a hostile path would find: one level up, and by its absolute name.
    put(&outside.join("kept.txt"), "kept");
    put(&outside.join("folder/old.json"), "{}");
    let said = (case.make)(&inside);
    let before = picture(&outside);
    let top: Vec<_> = names(sandbox.path());
    let mut command = binary(&inside);
    command.env("OUTSIDE", &outside).envs(case.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let one = if case.args.iter().any(|a| a.contains("$ADAPTER")) { name_of_one() } else { String::new() };
    for arg in &case.args {
        command.arg(
            arg.replace("$TINY", tiny().to_str().unwrap())
                .replace("$ADAPTER", &one)
                .replace("$OUTSIDE", outside.to_str().unwrap()),
        );
    }
    // The shell sets the limit, the program inherits it.
    let program = command.get_program().to_owned();
    let mut limited = Command::new("bash");
    limited
        .arg("-c")
        .arg(format!("ulimit -v {}; ulimit -c 0; exec \"$0\" \"$@\"", MEMORY >> 10))
        .arg(program)
        .args(command.get_args());
    limited.current_dir(&inside).env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let (out, err) = (sandbox.path().join("stdout"), sandbox.path().join("stderr"));
    let file = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
    let mut child = limited.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(SECONDS) {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("ran for more than {SECONDS} s"));
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let (stdout, stderr) = (read(&out), read(&err));
    let tail: String = stderr.chars().take(600).collect();
    let code = status.code().ok_or_else(|| format!("ended by signal {:?}: {tail}", status.signal()))?;
    let fine = match case.end {
        End::Refused => [2, 3, 5].contains(&code),
        End::Bounded => [0, 1, 2, 3, 5].contains(&code),
    };
    if !fine {
        return Err(format!("exit code {code}: {tail}"));
    }
    if stderr.contains("panicked")
        || stderr.contains("RUST_BACKTRACE")
        || stderr.contains("memory allocation")
    {
        return Err(format!("a panic: {tail}"));
    }
    if code != 0 && code != 1 {
        let errors = stderr.lines().filter(|l| l.starts_with("error:")).count();
        if errors != 1 {
            return Err(format!("{errors} errors are said: {tail}"));
        }
        if stderr.len() > 4000 {
            return Err(format!("an error of {} bytes: {tail}", stderr.len()));
        }
        if !stderr.contains(&said) {
            return Err(format!("{said:?} is not in: {tail}"));
        }
    }
    if !case.args.iter().any(|a| a == "--json") {
        let acts = |c: char| {
            (c.is_control() && c != '\n' && c != '\t')
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || c == '\u{200b}'
        };
        if let Some(c) = stdout.chars().chain(stderr.chars()).find(|c| acts(*c)) {
            return Err(format!("{c:?} reaches the terminal: {stdout:.300} {tail}"));
        }
    }
    if picture(&outside) != before
        || names(sandbox.path()).into_iter().filter(|n| n != "stdout" && n != "stderr").ne(top)
    {
        return Err(format!("something outside is not as it was: {:?}", picture(&outside).keys()));
    }
    Ok(())
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn whatever_strangers_send_stays_in_its_place_and_within_a_bound() {
    let chosen = std::env::var("LORAFAB_HOSTILE").unwrap_or_default();
    let lists: [(&str, Vec<Case>); 8] = [
        ("templates", templates::cases()),
        ("models", models::cases()),
        ("adapters", adapters::cases()),
        ("pickles", pickles::cases()),
        ("bundles", bundles::cases()),
        ("stores", stores::cases()),
        ("files", files::cases()),
        ("hub", hub::cases()),
    ];
    let all: Vec<(String, Case)> = lists
        .into_iter()
        .flat_map(|(kind, list)| list.into_iter().map(move |c| (format!("{kind}: {}", c.name), c)))
        .filter(|(name, _)| name.contains(&chosen))
        .collect();
    let n = all.len();
    assert!(n >= 150 || !chosen.is_empty(), "{n} cases");
    let (next, failed, slowest) =
        (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new((Duration::ZERO, String::new())));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, case)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case)));
                    if let Err(what) = done.unwrap_or_else(|_| Err("the case itself is wrong".into())) {
                        failed.lock().unwrap().push(format!("{name}: {what}"));
                    }
                    let mut slowest = slowest.lock().unwrap();
                    if begin.elapsed() > slowest.0 {
                        *slowest = (begin.elapsed(), name.clone());
                    }
                }
            });
        }
    });
    println!("{n} cases, the slowest: {:?}", slowest.lock().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {n} cases:\n{}", failed.len(), failed.join("\n"));
}
