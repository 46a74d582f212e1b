//! Requests that follow no redirect by themselves, so that whoever sends them decides at each stop who is told what.

use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::TlsConfig;

use crate::{Error, Result, roots};

/// An agent that takes every status for an answer and every redirect for one, too: a body is not sent twice, and a token goes nowhere
/// else. It trusts whom the environment names (`SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE`), or else the system.
///
/// # Errors
/// If what the environment names holds no certificate.
pub fn agent() -> Result<ureq::Agent> {
    let roots = roots::trusted(&|name| std::env::var(name).ok()).map_err(|what| Error::Source {
        what,
        hint: "name a file of PEM certificates, or unset the variable: then the system's are trusted".into(),
    })?;
    Ok(ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_mins(5)))
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
