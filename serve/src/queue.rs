//! The queue, live: states, rate and workers, sent anew whenever they change.

use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use factory::queue::Look;
use factory::{Queue, State as JobState};
use futures_core::Stream;
use page::{escape, table};
use registry::Store;
use tokio::sync::mpsc;

use crate::facts::count;
use crate::frame::{Answer, Wrong, document, with_store};
use crate::site::Shared;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Pages that are kept up to date at once.
const MOST: usize = 32;

/// The script of this page.
const SCRIPT: &str = include_str!("live.js");

pub(crate) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT)
}

pub(crate) async fn page(State(shared): State<Arc<Shared>>) -> Answer {
    let state = with_store(shared, |store, _| state(store)).await?;
    let body = format!(
        "<h1>Queue</h1><p class=\"note\" id=\"live\" aria-live=\"polite\">as it was when this page was loaded</p><div id=\"queue\">{state}</div><script src=\"/live.js\" defer></script>"
    );
    Ok(Html(document("/queue", "Queue", &body)))
}

/// What the queue holds, as a part of a page.
fn state(store: &mut Store) -> Result<String, Wrong> {
    let now = jiff::Timestamp::now().as_millisecond();
    let Look { status, open, per_hour, minutes_left } = Queue::new(store).look(now)?;
    let mut out = String::new();
    let left =
        minutes_left.filter(|_| open > 0).map_or_else(String::new, |m| format!(", {m:.0} minutes left"));
    let _ =
        write!(out, "<p>{} open; {per_hour:.0} an hour in the last 5 minutes{left}.</p>", count(open, "job"));
    if status.paused {
        out += "<p class=\"warning\">Paused: nothing new is begun.</p>";
    }
    for limit in &status.limits {
        let _ = write!(out, "<p>At most {} of {} at once.</p>", limit.most, escape(&limit.tag));
    }
    let rows: Vec<Vec<String>> = status
        .families
        .iter()
        .map(|(family, counts)| {
            let cells = JobState::ALL
                .map(|s| counts.get(s.name()).map_or_else(|| "–".to_owned(), ToString::to_string));
            std::iter::once(escape(family)).chain(cells).collect()
        })
        .collect();
    let names: Vec<String> =
        JobState::ALL.iter().map(|s| format!("#{}", s.name().replace('_', " "))).collect();
    let head: Vec<&str> = std::iter::once("family").chain(names.iter().map(String::as_str)).collect();
    if rows.is_empty() {
        out += "<p>No job was ever queued.</p>";
    } else {
        out += &table(&head, &rows);
    }
    out += "<h2>Workers</h2>";
    let rows: Vec<Vec<String>> = status
        .workers
        .iter()
        .map(|w| {
            vec![
                escape(&w.owner),
                escape(&w.doing),
                format!("{:.0}", w.tokens_per_sec),
                w.done.to_string(),
                ((now - w.seen_ms).max(0) / 1000).to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        out += "<p>None was seen in the last minute.</p>";
    } else {
        out += &table(&["worker", "does", "#tokens/s", "#done", "#seen, s ago"], &rows);
    }
    if !status.dead.is_empty() {
        let rows: Vec<Vec<String>> =
            status.dead.iter().map(|(label, why)| vec![escape(label), escape(why)]).collect();
        out += "<h2>Dead jobs</h2>";
        out += &table(&["job", "why"], &rows);
    }
    Ok(out)
}

/// When the queue was looked at last, and what was seen.
pub(crate) type Seen = tokio::sync::Mutex<Option<(Instant, String)>>;

/// The queue as one look a moment shows it to all pages.
async fn seen(shared: &Arc<Shared>) -> Result<String, Wrong> {
    let mut last = shared.queue.lock().await;
    if let Some((_, state)) = last.as_ref().filter(|(at, _)| at.elapsed() < EVERY / 2) {
        return Ok(state.clone());
    }
    let now = with_store(Arc::clone(shared), |store, _| state(store)).await?;
    *last = Some((Instant::now(), now.clone()));
    Ok(now)
}

/// Server-sent events: the queue as HTML, whenever it is another than before.
pub(crate) async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = Arc::clone(&shared.watching).try_acquire_owned() else {
        return Wrong::busy("as many pages are kept up to date as can be; reload this one to see the queue")
            .into_response();
    };
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let _place = place;
        let mut before = String::new();
        // Ends with its page: a closed one takes nothing more.
        while !send.is_closed() {
            let now = seen(&shared).await;
            let event = match now {
                Ok(now) if now != before => {
                    before.clone_from(&now);
                    Event::default().data(now)
                }
                Ok(_) => {
                    tokio::time::sleep(EVERY).await;
                    continue;
                }
                Err(_) => {
                    // As soon as it can be read again that is to be seen, changed or not.
                    before.clear();
                    Event::default().event("trouble").data("the store cannot be read")
                }
            };
            if send.send(Ok::<_, Infallible>(event)).await.is_err() {
                break;
            }
            tokio::time::sleep(EVERY).await;
        }
    });
    Sse::new(Received(receive)).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}

/// What comes through a channel, as a stream.
struct Received(mpsc::Receiver<Result<Event, Infallible>>);

impl Stream for Received {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// How many pages are kept up to date at once.
pub(crate) fn places() -> tokio::sync::Semaphore {
    tokio::sync::Semaphore::new(MOST)
}
