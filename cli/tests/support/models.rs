//! A Hub that serves the tiny model as `org/tiny`, its weights from a storage at another address, piece by piece.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

/// The commit that it serves.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Folder of the files.
pub(crate) fn files() -> PathBuf {
    crate::support::tiny().into()
}

/// Folder of the adapter that it serves as `org/oracle`.
pub(crate) fn adapter() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published/oracle")
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Starts one; with `tls` its addresses are https.
pub(crate) fn serve(tls: Option<&Arc<ServerConfig>>) -> String {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (hub, storage) = (listen(), listen());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = |l: &TcpListener| format!("{scheme}://{}", l.local_addr().unwrap());
    let (here, there) = (address(&hub), address(&storage));
    for (listener, storage) in [(hub, None), (storage, Some(there.clone()))] {
        let (tls, there) = (tls.cloned(), there.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, there, is_storage) = (tls.clone(), there.clone(), storage.is_some());
                std::thread::spawn(move || {
                    let mut stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(config) => {
                            Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream))
                        }
                    };
                    let _ = answer(&mut *stream, is_storage, &there);
                });
            }
        });
    }
    here
}

fn answer(stream: &mut dyn Stream, is_storage: bool, storage: &str) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut *stream);
    while reader.read_line(&mut head)? > 2 {}
    let path = head.split_whitespace().nth(1).unwrap_or("").to_owned();
    let name = path.rsplit('/').next().unwrap_or("").to_owned();
    let folder = match is_storage {
        true if name.starts_with("adapter") => Some(adapter()),
        true => Some(files()),
        false if path.starts_with("/org/tiny/resolve/main/") => Some(files()),
        false => path.starts_with("/org/oracle/resolve/main/").then(adapter),
    };
    let Some(body) = folder.and_then(|f| std::fs::read(f.join(&name)).ok()) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let digest: String = Sha256::digest(&body).iter().fold(String::new(), |s, b| s + &format!("{b:02x}"));
    if name.ends_with(".safetensors") && !is_storage {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {storage}/{name}\r\nX-Linked-Etag: \"{digest}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let range = head.lines().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let start: usize = range.map_or(0, |r| r.trim().trim_end_matches('-').parse().unwrap());
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    let rest = &body[start.min(body.len())..];
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nConnection: close\r\n\r\n",
        &digest[..40],
        rest.len(),
        body.len() - 1,
        body.len()
    )?;
    for piece in rest.chunks(4096) {
        stream.write_all(piece)?;
        stream.flush()?;
        std::thread::sleep(Duration::from_micros(500));
    }
    stream.flush()
}
