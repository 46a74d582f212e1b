//! What is let in: questions alone, put to this machine by its own name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Longest address of a page.
const LONGEST: usize = 8192;

/// What a browser may do with a page: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The rules of a site.
#[derive(Debug)]
pub(crate) struct Guard {
    hosts: Vec<String>,
    everywhere: bool,
}

impl Guard {
    /// Of a site at an address: a page that another site's name leads here (DNS rebinding) is refused.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string(), format!("localhost:{port}")];
        if address.ip().is_loopback() {
            hosts.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        }
        if port == 80 {
            // Browsers leave it out.
            hosts.extend(hosts.clone().iter().filter_map(|h| h.strip_suffix(":80").map(str::to_owned)));
        }
        Self { hosts, everywhere: address.ip().is_unspecified() }
    }

    fn refusal(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Some((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n"));
        }
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
        // One that is listened for on all addresses has more of them than are known here. A name of somebody else's still leads nowhere.
        let number =
            |h: &str| h.parse::<SocketAddr>().is_ok() || h.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let own = host.is_some_and(|h| {
            self.hosts.iter().any(|own| own.eq_ignore_ascii_case(h)) || (self.everywhere && number(h))
        });
        if !own {
            let what = "this is no host of that name: ask for it by the address that it was served at\n";
            return Some((StatusCode::MISDIRECTED_REQUEST, what));
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

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn names_of_others_lead_nowhere_wherever_the_site_is_served() {
        let let_in = |served: &str, host: &str| {
            let guard = Guard::new(served.parse().unwrap());
            let request = Request::builder().uri("/").header("host", host).body(Body::empty()).unwrap();
            guard.refusal(&request).is_none()
        };
        for (served, host, own) in [
            ("127.0.0.1:7435", "127.0.0.1:7435", true),
            ("127.0.0.1:7435", "LOCALHOST:7435", true),
            ("127.0.0.1:7435", "192.168.0.7:7435", false),
            ("127.0.0.1:7435", "evil.example:7435", false),
            ("127.0.0.1:80", "localhost", true),
            ("0.0.0.0:7435", "192.168.0.7:7435", true),
            ("0.0.0.0:7435", "evil.example:7435", false),
            ("[::]:7435", "[fe80::1]:7435", true),
            ("[::]:7435", "localhost:7435", true),
            ("192.168.0.7:7435", "192.168.0.7:7435", true),
            ("192.168.0.7:7435", "10.0.0.1:7435", false),
        ] {
            assert_eq!(let_in(served, host), own, "{host} at {served}");
        }
    }
}
