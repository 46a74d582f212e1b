//! A Hub on this machine that keeps what it is given: repositories, branches, commits, large files in a storage at another address.
//! It can be told to fail.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "hf_verysecretindeed";

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The connection ends before anything is done.
    Cut,
    /// It is done, and the connection ends before the answer.
    Unanswered,
    /// This status, nothing done.
    Status(u16),
    /// Nothing is done, and no answer comes.
    Hang,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum File {
    Regular(Vec<u8>),
    Large(String),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) changed: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Repo {
    pub(crate) private: bool,
    pub(crate) branches: BTreeMap<String, Vec<Commit>>,
}

impl Repo {
    pub(crate) fn commit(&mut self, branch: &str, change: impl FnOnce(&mut BTreeMap<String, File>)) {
        let commits = self.branches.get_mut(branch).unwrap();
        let mut files = commits.last().map(|c| c.files.clone()).unwrap_or_default();
        let before = files.clone();
        change(&mut files);
        let changed = files.iter().filter(|(p, f)| before.get(*p) != Some(f)).count();
        commits.push(Commit { id: format!("{:040x}", commits.len() + 1), files, changed });
    }
}

#[derive(Default)]
pub(crate) struct State {
    /// By `datasets/org/name` and `models/org/name`.
    pub(crate) repos: BTreeMap<String, Repo>,
    /// The storage, by SHA-256.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<(String, usize), Vec<u8>>,
    /// How often each object was put while it was there already.
    pub(crate) puts_again: usize,
    pub(crate) puts: usize,
    /// `METHOD path` of every request.
    pub(crate) requests: Vec<String>,
    /// Uploads that told the storage the token.
    pub(crate) leaks: usize,
    /// Faults, by number of the request from 0.
    pub(crate) faults: BTreeMap<usize, Fault>,
    pub(crate) hanging: bool,
    /// The token may not write.
    pub(crate) may_not_write: bool,
    /// Entries of one page of a listing; all if 0.
    pub(crate) page: usize,
    /// Large files go in parts of so many bytes.
    pub(crate) part: Option<usize>,
    /// A commit of somebody else's that comes before the next one that names its parent.
    pub(crate) race: Option<(String, Vec<u8>)>,
    storage: String,
}

pub(crate) struct Stub {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

pub(crate) struct Request {
    method: String,
    path: String,
    head: String,
    body: Vec<u8>,
}

pub(crate) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(status: u16, body: &Value) -> Response {
    Response { status, headers: vec![], body: body.to_string().into_bytes() }
}

fn refuse(status: u16, code: &str, message: &str) -> Response {
    let headers = vec![("X-Error-Code", code.to_owned()), ("X-Error-Message", message.to_owned())];
    Response { headers, ..answer(status, &json!({"error": message})) }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

fn git_oid(bytes: &[u8]) -> String {
    use sha1::Digest;
    let all = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    sha1::Sha1::digest(all).iter().fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

impl Stub {
    pub(crate) fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let hub = serve(&state, false);
        let storage = serve(&state, true);
        state.lock().unwrap().storage = storage;
        Self { address: hub, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The newest files of a data set, large ones with their bytes.
    pub(crate) fn files(&self, repository: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let commits = &state.repos[&format!("datasets/{repository}")].branches["main"];
        let bytes = |f: &File| match f {
            File::Regular(bytes) => bytes.clone(),
            File::Large(oid) => state.objects[oid].clone(),
        };
        commits.last().unwrap().files.iter().map(|(p, f)| (p.clone(), bytes(f))).collect()
    }

    /// Changes a data set as somebody with the right could.
    pub(crate) fn tamper(&self, repository: &str, change: impl FnOnce(&mut BTreeMap<String, File>)) {
        self.state().repos.get_mut(&format!("datasets/{repository}")).unwrap().commit("main", change);
    }

    /// Forgets what was counted, and plans a fault for the `n`-th request from now.
    pub(crate) fn reset(&self, fault: Option<(usize, Fault)>) {
        let mut state = self.state();
        state.requests.clear();
        state.puts = 0;
        state.faults = fault.into_iter().collect();
        state.hanging = false;
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }
}

fn serve(state: &Arc<Mutex<State>>, storage: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (state, own) = (Arc::clone(state), address.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), state, own) = (stream, Arc::clone(&state), own.clone()) else { return };
            std::thread::spawn(move || one(&stream, &state, storage, &own));
        }
    });
    address
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    let length =
        head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Request { method, path, head, body })
}

fn one(mut stream: &TcpStream, state: &Mutex<State>, storage: bool, own: &str) {
    let Some(request) = read(stream) else { return };
    let mut state = state.lock().unwrap();
    let n = state.requests.len();
    state.requests.push(format!("{} {}", request.method, request.path));
    let fault = state.faults.get(&n).copied();
    let response = match fault {
        Some(Fault::Cut) => return,
        Some(Fault::Hang) => {
            state.hanging = true;
            drop(state);
            std::thread::sleep(std::time::Duration::from_mins(1));
            return;
        }
        Some(Fault::Status(status)) => {
            let headers = if status == 429 { vec![("Retry-After", "0".to_owned())] } else { vec![] };
            Response { status, headers, body: b"busy".to_vec() }
        }
        _ if storage => store(&mut state, &request),
        _ => hub(&mut state, &request, own),
    };
    drop(state);
    if fault == Some(Fault::Unanswered) {
        return;
    }
    let mut text = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        response.status,
        response.body.len()
    );
    for (name, value) in &response.headers {
        text.extend([*name, ": ", value.as_str(), "\r\n"]);
    }
    let _ = stream.write_all(format!("{text}\r\n").as_bytes());
    let _ = stream.write_all(&response.body);
}

/// Part of a file, as asked for.
fn ranged(request: &Request, bytes: &[u8], mut headers: Vec<(&'static str, String)>) -> Response {
    let range =
        request.head.lines().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let Some(range) = range else { return Response { status: 200, headers, body: bytes.to_vec() } };
    let (from, to) = range.trim().split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap_or(bytes.len() - 1));
    let to = to.min(bytes.len() - 1);
    headers.push(("Content-Range", format!("bytes {from}-{to}/{}", bytes.len())));
    Response { status: 206, headers, body: bytes[from..=to].to_vec() }
}

fn store(state: &mut State, request: &Request) -> Response {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let oid = path.rsplit('/').next().unwrap().to_owned();
    state.leaks +=
        usize::from(request.head.to_lowercase().contains("authorization") || request.head.contains(TOKEN));
    if request.method == "GET" {
        return ranged(request, &state.objects[&oid], vec![]);
    }
    state.puts += 1;
    state.puts_again += usize::from(state.objects.contains_key(&oid));
    if let Some(part) = query.strip_prefix("part=") {
        let tag = format!("\"tag-{part}\"");
        state.parts.insert((oid, part.parse().unwrap()), request.body.clone());
        return Response { headers: vec![("ETag", tag)], ..answer(200, &json!({})) };
    }
    let bytes = if request.method == "POST" {
        let plan: Value = serde_json::from_slice(&request.body).unwrap();
        let mut whole = Vec::new();
        for part in plan["parts"].as_array().unwrap() {
            let number = part["partNumber"].as_u64().unwrap() as usize;
            assert_eq!(part["etag"], format!("\"tag-{number}\""));
            whole.extend(state.parts[&(oid.clone(), number)].clone());
        }
        whole
    } else {
        request.body.clone()
    };
    if sha256(&bytes) != oid {
        return refuse(400, "BadDigest", "these are other bytes");
    }
    state.objects.insert(oid, bytes);
    answer(200, &json!({}))
}

fn hub(state: &mut State, request: &Request, own: &str) -> Response {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let authorization = request.head.lines().find(|l| l.to_lowercase().starts_with("authorization:"));
    let known = authorization.is_some_and(|l| l.trim().ends_with(&format!("Bearer {TOKEN}")));
    if authorization.is_some() && !known {
        return refuse(401, "", "Invalid credentials in Authorization header");
    }
    let json = || serde_json::from_slice::<Value>(&request.body).unwrap();
    if request.method == "POST" {
        if !known {
            return refuse(401, "", "Invalid username or password.");
        }
        if state.may_not_write {
            return refuse(403, "", "Forbidden: pass a write token (not hf_verysecretindeed)");
        }
    }
    if path == "/api/repos/create" {
        let asked = json();
        let name = format!(
            "{}s/{}/{}",
            asked["type"].as_str().unwrap(),
            asked["organization"].as_str().unwrap(),
            asked["name"].as_str().unwrap()
        );
        if state.repos.contains_key(&name) {
            return refuse(409, "", "You already created this dataset repo");
        }
        let mut repo = Repo { private: asked["private"].as_bool().unwrap(), ..Repo::default() };
        repo.branches.insert("main".into(), vec![]);
        repo.commit("main", |f| {
            f.insert(".gitattributes".into(), File::Regular(b"*.safetensors lfs\n".to_vec()));
        });
        state.repos.insert(name, repo);
        return answer(200, &json!({"url": "x"}));
    }
    if let Some(oid) = path.strip_prefix("/verify/") {
        return if state.objects.contains_key(oid) {
            answer(200, &json!({}))
        } else {
            refuse(404, "", "No file uploaded")
        };
    }
    if let Some(rest) = path.strip_suffix(".git/info/lfs/objects/batch") {
        let rest = rest.trim_start_matches('/');
        let name = if rest.starts_with("datasets/") { rest.to_owned() } else { format!("models/{rest}") };
        assert!(state.repos.contains_key(&name), "{name}");
        return batch(state, &json(), own);
    }
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (name, verb, rest) = match words[..] {
        ["api", kind, org, name, verb, ..] => (format!("{kind}/{org}/{name}"), verb, words[5..].join("/")),
        ["datasets", org, name, "resolve", ..] => {
            (format!("datasets/{org}/{name}"), "resolve", words[4..].join("/"))
        }
        [org, name, "resolve", ..] => (format!("models/{org}/{name}"), "resolve", words[3..].join("/")),
        _ => return refuse(404, "", "no such address"),
    };
    let revision = rest.split('/').next().unwrap().replace("%2F", "/");
    let page = state.page;
    if !state.repos.get(&name).is_some_and(|r| known || !r.private) {
        return refuse(if known { 404 } else { 401 }, "RepoNotFound", "Repository not found");
    }
    if verb == "commit" {
        return commit(state, &name, &revision, &request.body);
    }
    let repo = state.repos.get_mut(&name).unwrap();
    if verb == "branch" {
        let head = repo.branches["main"].last().unwrap().clone();
        return match repo.branches.entry(revision) {
            std::collections::btree_map::Entry::Occupied(_) => refuse(409, "", "exists"),
            std::collections::btree_map::Entry::Vacant(v) => {
                v.insert(vec![head]);
                answer(200, &json!({}))
            }
        };
    }
    let found = match repo.branches.get(&revision) {
        Some(commits) => commits.last(),
        None => repo.branches.values().flatten().find(|c| c.id == revision),
    };
    let Some(found) = found else { return refuse(404, "RevisionNotFound", "Invalid rev id") };
    match verb {
        "revision" => answer(200, &json!({"sha": found.id})),
        "tree" => {
            let mut entries: Vec<Value> = Vec::new();
            let mut folders = BTreeSet::new();
            for (path, file) in &found.files {
                for (i, _) in path.match_indices('/') {
                    folders.insert(path[..i].to_owned());
                }
                entries.push(match file {
                    File::Regular(b) => json!({"type": "file", "path": path, "size": b.len(), "oid": git_oid(b)}),
                    File::Large(oid) => {
                        let size = state.objects[oid].len();
                        json!({"type": "file", "path": path, "size": size, "oid": "0".repeat(40), "lfs": {"oid": oid, "size": size, "pointerSize": 130}})
                    }
                });
            }
            entries.extend(
                folders
                    .iter()
                    .map(|f| json!({"type": "directory", "path": f, "size": 0, "oid": "1".repeat(40)})),
            );
            let from: usize =
                query.split('&').find_map(|q| q.strip_prefix("cursor=")).map_or(0, |c| c.parse().unwrap());
            let end = if page == 0 { entries.len() } else { (from + page).min(entries.len()) };
            let mut response = answer(200, &entries[from..end].into());
            if end < entries.len() {
                // As a mirror would: another host, which must not be asked.
                response.headers.push((
                    "Link",
                    format!("<http://elsewhere.invalid{path}?recursive=true&cursor={end}>; rel=\"next\""),
                ));
            }
            response
        }
        "resolve" => {
            let Some(file) = found.files.get(rest.split_once('/').unwrap().1) else {
                return refuse(404, "EntryNotFound", "Entry not found");
            };
            let commit = ("X-Repo-Commit", found.id.clone());
            match file {
                File::Regular(b) => ranged(request, b, vec![commit, ("ETag", format!("\"{}\"", git_oid(b)))]),
                File::Large(oid) => {
                    let to = ("Location", format!("{}/object/{oid}", state.storage));
                    Response {
                        status: 302,
                        headers: vec![
                            commit,
                            to,
                            ("X-Linked-Etag", format!("\"{oid}\"")),
                            ("ETag", "\"x\"".into()),
                        ],
                        body: vec![],
                    }
                }
            }
        }
        "preupload" => {
            let modes: Vec<Value> = json()["files"]
                .as_array()
                .unwrap()
                .iter()
                .map(|f| {
                    let path = f["path"].as_str().unwrap();
                    assert!(STANDARD.decode(f["sample"].as_str().unwrap()).unwrap().len() <= 512);
                    let large = path.ends_with(".safetensors") || f["size"].as_u64().unwrap() > 10_000_000;
                    json!({"path": path, "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false})
                })
                .collect();
            answer(200, &json!({"files": modes}))
        }
        _ => refuse(404, "", "no such address"),
    }
}

fn batch(state: &State, asked: &Value, own: &str) -> Response {
    let mut seen = BTreeSet::new();
    let objects: Vec<Value> = asked["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let (oid, size) = (o["oid"].as_str().unwrap(), o["size"].as_u64().unwrap() as usize);
            assert!(seen.insert(oid.to_owned()), "{oid} is asked about twice");
            if state.objects.contains_key(oid) {
                return json!({"oid": oid, "size": size});
            }
            let mut upload = json!({"href": format!("{}/object/{oid}", state.storage)});
            if let Some(part) = state.part {
                upload["header"]["chunk_size"] = part.to_string().into();
                for n in 1..=size.div_ceil(part) {
                    upload["header"][n.to_string()] = format!("{}/object/{oid}?part={n}", state.storage).into();
                }
            }
            json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": format!("{own}/verify/{oid}")}}})
        })
        .collect();
    answer(200, &json!({"transfer": "basic", "objects": objects}))
}

fn commit(state: &mut State, name: &str, branch: &str, body: &[u8]) -> Response {
    let lines: Vec<Value> =
        std::str::from_utf8(body).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["key"], "header");
    assert!(lines.len() <= 101, "a commit of {} files", lines.len() - 1);
    let parent = lines[0]["value"]["parentCommit"].as_str();
    let race = if parent.is_some() { state.race.take() } else { None };
    let repo = state.repos.get_mut(name).unwrap();
    if !repo.branches.contains_key(branch) {
        return refuse(404, "RevisionNotFound", "Invalid rev id");
    }
    if let Some((path, bytes)) = race {
        repo.commit(branch, |f| drop(f.insert(path, File::Regular(bytes))));
    }
    let head = repo.branches[branch].last().unwrap().id.clone();
    if parent.is_some_and(|p| p != head) {
        return refuse(412, "", "A commit has happened since. Please refresh and try again.");
    }
    let mut changes = BTreeMap::new();
    for line in &lines[1..] {
        let value = &line["value"];
        let file = if line["key"] == "lfsFile" {
            let oid = value["oid"].as_str().unwrap();
            match state.objects.get(oid) {
                Some(b) if b.len() as u64 == value["size"].as_u64().unwrap() => File::Large(oid.to_owned()),
                _ => return refuse(400, "", "lfs pointer without a file"),
            }
        } else {
            assert_eq!((&line["key"], &value["encoding"]), (&json!("file"), &json!("base64")));
            File::Regular(STANDARD.decode(value["content"].as_str().unwrap()).unwrap())
        };
        changes.insert(value["path"].as_str().unwrap().to_owned(), file);
    }
    repo.commit(branch, |f| f.extend(changes));
    let id = repo.branches[branch].last().unwrap().id.clone();
    answer(200, &json!({"success": true, "commitOid": id}))
}
