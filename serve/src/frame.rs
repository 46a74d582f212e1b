//! What every page has around it, and pages that say what is wrong.

use std::fmt::Write;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use page::{STYLE, escape};
use registry::Store;

use crate::site::Shared;

/// A page, or the page that says why there is none.
pub(crate) type Answer = Result<Html<String>, Wrong>;

/// Why there is no such page.
#[derive(Debug)]
pub(crate) struct Wrong(StatusCode, String);

impl Wrong {
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, what.into())
    }

    pub(crate) fn bad(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    pub(crate) fn busy(what: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, what.into())
    }

    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, what.into())
    }
}

impl From<registry::Error> for Wrong {
    fn from(e: registry::Error) -> Self {
        use registry::Error;
        let status = match e {
            Error::NotFound { .. } | Error::Ambiguous { .. } => StatusCode::NOT_FOUND,
            Error::Filter { .. } | Error::Sort { .. } => StatusCode::BAD_REQUEST,
            Error::Busy { .. } | Error::OlderSchema { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, e.to_string())
    }
}

impl From<factory::Error> for Wrong {
    fn from(e: factory::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let body =
            format!("<h1>{}</h1><p>{}</p>", self.0.canonical_reason().unwrap_or("Wrong"), escape(&self.1));
        (self.0, Html(document("", self.0.as_str(), &body))).into_response()
    }
}

/// What is asked for and is none of our pages.
pub(crate) async fn not_found() -> Wrong {
    Wrong::not_found("there is no such page here")
}

/// Runs what reads a store away from those that answer others.
pub(crate) async fn with_store<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&mut Store, &Shared) -> Result<T, Wrong> + Send + 'static,
) -> Result<T, Wrong> {
    // Held until the work ends, not only as long as somebody waits for it.
    let room = Arc::clone(&shared.room).acquire_owned().await;
    let run = move || {
        let _room = room;
        let mut store = shared.stores.take()?;
        let answer = work(&mut store, &shared);
        shared.stores.give(store);
        answer
    };
    tokio::task::spawn_blocking(run)
        .await
        .unwrap_or_else(|_| Err(Wrong::broken("this page could not be made; the server goes on")))
}

/// Style of what only the site has.
const OWN: &str = "nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:0 0 1.2rem;padding-bottom:.6rem;border-bottom:1px solid var(--line)}nav a[aria-current]{color:var(--fg);font-weight:600;text-decoration:none}\
form.filter{display:flex;flex-wrap:wrap;gap:.5rem;margin:.8rem 0}form.filter label{color:var(--soft);font-size:.92rem}input,select,button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:4px;padding:.25rem .5rem;max-width:100%}\
input[name=where]{flex:1 1 18rem;min-width:0}dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem;margin:.6rem 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}@media(max-width:40rem){dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:.4rem}}\
.pages{display:flex;gap:1rem;flex-wrap:wrap}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:.6rem;border-radius:4px}td a{text-decoration:none}td a:hover{text-decoration:underline}.right{color:var(--a)}.wrong{color:var(--warn)}svg a rect{fill:var(--card);stroke:var(--line)}svg rect.self{fill:var(--card);stroke:var(--a);stroke-width:2}";

/// A page of the site. `here` is the part of the site that it belongs to; `body` is HTML already.
pub(crate) fn document(here: &str, title: &str, body: &str) -> String {
    let parts = [("/adapters", "Adapters"), ("/queue", "Queue"), ("/runs", "Comparisons")];
    let links = parts.map(|(to, name)| {
        let current = if to == here { " aria-current=\"page\"" } else { "" };
        format!("<a href=\"{to}\"{current}>{name}</a>")
    });
    let links = links.concat();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{} · lorafab</title><style>{STYLE}\n{OWN}</style></head><body><nav>{links}</nav>{body}</body></html>\n",
        escape(title)
    )
}

/// Text as a part of an address.
pub(crate) fn address(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// Parameters of an address, those that are set.
pub(crate) fn query(parts: &[(&str, &str)]) -> String {
    let set: Vec<String> =
        parts.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", address(v))).collect();
    if set.is_empty() { String::new() } else { format!("?{}", set.join("&amp;")) }
}

/// Links to the pages before and after one.
pub(crate) fn pages(path: &str, parts: &[(&str, &str)], page: usize, last: usize) -> String {
    let link = |n: usize, text: &str| {
        let n = n.to_string();
        let all: Vec<(&str, &str)> = parts.iter().copied().chain([("page", n.as_str())]).collect();
        format!("<a href=\"{path}{}\">{text}</a>", query(&all))
    };
    let mut out = String::from("<p class=\"pages\">");
    if page > 1 {
        out += &link(1, "first");
        out += &link(page - 1, "previous");
    }
    let _ = write!(out, "<span>page {page} of {last}</span>");
    if page < last {
        out += &link(page + 1, "next");
        out += &link(last, "last");
    }
    out + "</p>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hold_no_markup() {
        assert_eq!(address("a b/<\"'&é"), "a%20b%2F%3C%22%27%26%C3%A9");
        assert_eq!(query(&[("a", "x&y"), ("b", ""), ("c", "1")]), "?a=x%26y&amp;c=1");
        assert!(!document("", "<script>", "").contains("<script>"));
    }
}
