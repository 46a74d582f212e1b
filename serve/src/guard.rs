//! What is let in: questions alone, put to this machine by its own name, not too many at once.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

/// Requests that are worked on at once; the others wait.
const AT_ONCE: usize = 8;
/// Longest address of a page.
const LONGEST: usize = 8192;

/// What a browser may do with a page: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The rules of a site.
#[derive(Debug)]
pub(crate) struct Guard {
    hosts: Vec<String>,
    room: Semaphore,
}

impl Guard {
    /// Of a site at an address: a page that another site's name leads here (DNS rebinding) is refused.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string(), format!("localhost:{port}")];
        if address.ip().is_loopback() {
            hosts.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        }
        Self { hosts, room: Semaphore::new(AT_ONCE) }
    }

    fn refusal(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Some((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n"));
        }
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
        // One that is listened for on all addresses has more names than are known here.
        let everywhere = self.hosts[0].starts_with("0.0.0.0:") || self.hosts[0].starts_with("[::]:");
        let own = host.is_some_and(|h| self.hosts.iter().any(|own| own.eq_ignore_ascii_case(h)));
        if !own && !everywhere {
            return Some((StatusCode::MISDIRECTED_REQUEST, "this is no host of that name\n"));
        }
        if request.uri().path_and_query().is_some_and(|p| p.as_str().len() > LONGEST) {
            return Some((StatusCode::URI_TOO_LONG, "the address is too long\n"));
        }
        None
    }
}

/// Lets a request through, or says why not; every answer carries the page's policy.
pub(crate) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = if let Some(refusal) = guard.refusal(&request) {
        refusal.into_response()
    } else {
        // What streams for hours takes no room once it has begun.
        let _room = guard.room.acquire().await;
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
