//! A Hub that means harm: it answers as it likes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::{Case, End, look, store, tiny};

/// What the Hub does with a request for a path, on its own address.
type Answer = fn(path: &str, own: &str, out: &mut dyn Write) -> std::io::Result<()>;

fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = format!("http://{}", listener.local_addr().unwrap());
    let here = own.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let own = here.clone();
            std::thread::spawn(move || {
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
                let path = head.split_whitespace().nth(1).unwrap_or("").to_owned();
                let _ = answer(&path, &own, &mut stream);
            });
        }
    });
    own
}

const COMMIT: &str = "x-repo-commit: 0123456789abcdef0123456789abcdef01234567";

/// The tiny model's own file, as an honest Hub has it.
fn honest(path: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let name = path.rsplit('/').next().unwrap_or("");
    match std::fs::read(tiny().join(name)) {
        Ok(body) => {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"{:040x}\"\r\n{COMMIT}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                name.len(),
                body.len()
            )?;
            out.write_all(&body)
        }
        Err(_) => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

fn endless(out: &mut dyn Write) -> std::io::Result<()> {
    let piece = vec![b'a'; 1 << 16];
    for _ in 0..(32 << 14) {
        out.write_all(&piece)?;
    }
    Ok(())
}

fn with(name: &str, args: &str, answer: Answer, make: fn(&Path)) -> Case {
    Case {
        name: name.into(),
        args: args.split(' ').map(str::to_owned).collect(),
        end: End::Refused,
        make: Box::new(move |folder| {
            make(folder);
            "org/tiny".into()
        }),
        variables: vec![("HF_ENDPOINT".into(), serve(answer)), ("HF_TOKEN".into(), "hf_secretsecret".into())],
    }
}

fn model(name: &str, answer: Answer) -> Case {
    with(name, "--model org/tiny intervention run look.json", answer, look)
}

fn pull(name: &str, answer: Answer) -> Case {
    with(name, "--store store --model $TINY hub pull org/tiny", answer, |f| store(&f.join("store")))
}

fn redirect(out: &mut dyn Write, to: &str) -> std::io::Result<()> {
    write!(
        out,
        "HTTP/1.1 302 Found\r\n{to}{COMMIT}\r\nETag: \"abc\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// The beginning of an honest repository's listing.
fn listing(
    path: &str,
    out: &mut dyn Write,
    page: impl Fn(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    if path.contains("/tree/") {
        return page(out);
    }
    let body = "{\"sha\": \"0123456789abcdef0123456789abcdef01234567\", \"id\": \"org/tiny\"}";
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        model("a body without an end", |path, _, out| {
            if !path.ends_with("tokenizer.json") {
                return honest(path, out);
            }
            write!(out, "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\n{COMMIT}\r\nConnection: close\r\n\r\n")?;
            endless(out)
        }),
        model("more than was said", |path, _, out| {
            if !path.ends_with(".safetensors") {
                return honest(path, out);
            }
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: 10000\r\n{COMMIT}\r\nConnection: close\r\n\r\n",
                "a".repeat(64)
            )?;
            endless(out)
        }),
        model("a redirect to itself", |path, own, out| redirect(out, &format!("Location: {own}{path}\r\n"))),
        model("a redirect without a place", |_, _, out| redirect(out, "")),
        model("a redirect to nothing", |_, _, out| redirect(out, "Location: \r\n")),
        model("a redirect to a file", |_, _, out| redirect(out, "Location: file:///etc/passwd\r\n")),
        model("a redirect to nobody", |_, _, out| redirect(out, "Location: http://127.0.0.1:9/\r\n")),
        model("an answer that never comes", |_, _, _| {
            std::thread::sleep(Duration::from_mins(1));
            Ok(())
        }),
        model("an answer that stops", |_, _, out| {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\n{COMMIT}\r\nContent-Length: 100000\r\n\r\nhalf"
            )?;
            out.flush()?;
            std::thread::sleep(Duration::from_mins(1));
            Ok(())
        }),
        model("a tag that is a path", |_, _, out| {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"../../../../outside/kept.txt\"\r\n{COMMIT}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            )
        }),
        model("a commit that is a path", |_, _, out| {
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\nx-repo-commit: ../../../../outside\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            )
        }),
        model("an index with a path", |path, _, out| {
            if path.ends_with("model.safetensors") {
                return write!(
                    out,
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            if !path.ends_with("index.json") {
                return honest(path, out);
            }
            let body = "{\"weight_map\": {\"a\": \"../../../../../../outside/kept.txt\"}}";
            write!(
                out,
                "HTTP/1.1 200 OK\r\nETag: \"abc\"\r\n{COMMIT}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        }),
        model("headers without an end", |_, _, out| {
            write!(out, "HTTP/1.1 200 OK\r\n")?;
            for i in 0..10_000_000 {
                write!(out, "X-{i}: {}\r\n", "a".repeat(1000))?;
            }
            Ok(())
        }),
        model("words with controls", |_, _, out| {
            write!(
                out,
                "HTTP/1.1 500 \u{1b}[2J\r\nX-Error-Message: \u{1b}[2J\u{202e}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }),
        model("no HTTP", |_, _, out| out.write_all(b"220 smtp ready\r\n")),
        pull("a listing without an end", |path, own, out| {
            listing(path, out, |out| {
                let n: u64 = path.rsplit('=').next().and_then(|c| c.parse().ok()).unwrap_or(0) + 1;
                let files: Vec<String> = (0..1000).map(|i| format!("{{\"type\": \"file\", \"path\": \"f{n}-{i}\", \"size\": 1, \"oid\": \"{n:040x}\"}}")).collect();
                let body = format!("[{}]", files.join(","));
                let next = format!("<{own}/api/datasets/org/tiny/tree/main?cursor={n}>; rel=\"next\"");
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nLink: {next}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            })
        }),
        pull("a page that is its own next", |path, own, out| {
            listing(path, out, |out| {
                let next = format!("<{own}{path}>; rel=\"next\"");
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nLink: {next}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"
                )
            })
        }),
        pull("a page without an end", |path, _, out| {
            listing(path, out, |out| {
                write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[")?;
                endless(out)
            })
        }),
        pull("a refusal without an end", |_, _, out| {
            write!(out, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n")?;
            endless(out)
        }),
        pull("a pause of a year", |_, _, out| {
            write!(
                out,
                "HTTP/1.1 429 Slow\r\nRetry-After: 31536000\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }),
        pull("an index of brackets", |path, _, out| {
            if path.contains("/resolve/") {
                return write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n{}",
                    "[".repeat(1_000_000)
                );
            }
            listing(path, out, |out| {
                let body = format!(
                    "[{{\"type\": \"file\", \"path\": \"index.jsonl\", \"size\": 1000000, \"oid\": \"{:040x}\"}}]",
                    1
                );
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            })
        }),
    ]
}
