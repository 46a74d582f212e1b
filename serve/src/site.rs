//! The routes, and the server that answers them until it is told to stop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::guard::Guard;
use crate::items::Kept;
use crate::stores::Stores;
use crate::{adapter, adapters, frame, guard, items, queue, runs};

/// Why a site could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or is none of this machine's.
    #[error("{0} cannot be listened on: {1}")]
    Address(SocketAddr, std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// While serving.
    #[error("serving ended: {0}")]
    Serving(std::io::Error),
}

/// Requests that are worked on at once.
const AT_ONCE: usize = 8;

/// What handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stores: Stores,
    pub(crate) kept: Kept,
    /// Requests that are worked on at once; the others wait.
    pub(crate) room: Arc<Semaphore>,
    /// The queue as it was looked at last, for all pages that are kept up to date.
    pub(crate) queue: queue::Seen,
    /// Places for pages that are kept up to date.
    pub(crate) watching: Arc<Semaphore>,
}

/// A store that is listened for.
#[derive(Debug)]
pub struct Site {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Site {
    /// Opens a store for reading and listens; port 0 is any free one.
    ///
    /// # Errors
    /// If there is no store, it is of another version, or the address cannot be had.
    pub async fn open(store: &Path, address: SocketAddr) -> Result<Self, Error> {
        let stores = Stores::new(store);
        // What is wrong with it is said now rather than on every page.
        drop(stores.take()?);
        let listener = TcpListener::bind(address).await.map_err(|e| Error::Address(address, e))?;
        let address = listener.local_addr().map_err(|e| Error::Address(address, e))?;
        let shared = Shared {
            stores,
            kept: Kept::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            queue: queue::Seen::default(),
            watching: Arc::new(queue::places()),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` comes.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let guard = Arc::new(Guard::new(self.address));
        let app = Router::new()
            .route("/", get(|| async { Redirect::to("/adapters") }))
            .route("/adapters", get(adapters::list))
            .route("/adapter/{id}", get(adapter::one))
            .route("/queue", get(queue::page))
            .route("/queue/events", get(queue::events))
            .route("/runs", get(runs::list))
            .route("/run/{name}", get(runs::report))
            .route("/run/{name}/report", get(runs::whole))
            .route("/run/{name}/items", get(items::list))
            .route("/run/{name}/adapter", get(items::of_adapter))
            .route("/live.js", get(queue::script))
            .fallback(frame::not_found)
            .with_state(self.shared)
            .layer(from_fn_with_state(guard, guard::check));
        // Nothing is written, so nothing has to be finished: pages that are kept up to date would never end by themselves.
        tokio::select! {
            served = axum::serve(self.listener, app).into_future() => served.map_err(Error::Serving),
            () = stop => Ok(()),
        }
    }
}
