//! Requests that follow no redirect by themselves, so that whoever sends them decides at each stop who is told what.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::tls::TlsConfig;

use crate::{Error, Result, roots};

pub use crate::roots::{Certificates, NAMED};

/// How long an answer, or its next piece, may take to come. Requests that make the other side work long say so themselves.
pub const ANSWER: Duration = Duration::from_secs(20);

/// Why a body was not copied whole.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is longer than it may be, and will be the next time.
    #[error("more than {0} bytes come")]
    Long(u64),
    /// It comes at a pace that never ends.
    #[error("it comes too slowly")]
    Slow,
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Copies a body of at most `most` bytes, as long as it comes at a pace that ends some day: on average a kilobyte a second, after the first
/// half minute. Returns how many bytes came.
///
/// # Errors
/// If it is longer, comes too slowly, or cannot be read or written.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write, most: u64) -> Result<u64, Broken> {
    let begin = Instant::now();
    let mut piece = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(copied);
        }
        copied += n as u64;
        if copied > most {
            return Err(Broken::Long(most));
        }
        to.write_all(&piece[..n])?;
        if begin.elapsed() > Duration::from_secs(30 + copied / 1000) {
            return Err(Broken::Slow);
        }
    }
}

/// An agent that takes every status for an answer and every redirect for one, too: a body is not sent twice, and a token goes nowhere
/// else. It trusts whom these certificates name, or else the system.
///
/// # Errors
/// If none can be read where they are said to be.
pub fn agent(certificates: &Certificates) -> Result<ureq::Agent> {
    let roots = roots::trusted(certificates).map_err(|what| Error::Source {
        what,
        hint: "name a file of PEM certificates, or unset the variable: then the system's are trusted".into(),
    })?;
    Ok(ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(Duration::from_secs(10)))
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(ANSWER))
        .timeout_per_write(Some(Duration::from_mins(2)))
        .user_agent(concat!("lorafab/", env!("CARGO_PKG_VERSION")))
        .build()
        .into())
}

/// Scheme and authority of an address, lower-case.
pub fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|s| ["http", "https"].contains(s))?;
    Some(format!("{scheme}://{}", uri.authority()?.as_str().to_lowercase()))
}

/// Where an answer of `from` sends on to; a connection that was not to be read by others stays one.
pub fn next_stop(from: &str, to: &str) -> Option<String> {
    let here = origin(from)?;
    let next =
        if to.starts_with('/') && !to.starts_with("//") { format!("{here}{to}") } else { to.to_owned() };
    let there = origin(&next)?;
    (there.starts_with("https:") || here.starts_with("http:")).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_answer_sends_on_to_is_followed_over_connections_as_good_only() {
        let next = |from: &str, to: &str| next_stop(from, to);
        assert_eq!(next("https://hub/a/b", "/c?d=1").as_deref(), Some("https://hub/c?d=1"));
        assert_eq!(next("https://hub/a", "https://cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(next("http://127.0.0.1:1/a", "https://cdn/x").as_deref(), Some("https://cdn/x"));
        for bad in ["http://cdn/x", "//cdn/x", "ftp://cdn/x", "file:///etc/passwd", "x", ""] {
            assert_eq!(next("https://hub/a", bad), None, "{bad}");
        }
    }
}
