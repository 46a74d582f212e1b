//! `serve`: the store as pages in a browser.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_as_it_is};

#[derive(Debug, Args)]
#[command(
    after_help = "Nothing can be changed through these pages, and only this machine can see them unless --host says otherwise: there is no password."
)]
pub(crate) struct ServeArgs {
    /// Port; 0 for any free one
    #[arg(short, long, default_value_t = 7435)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
}

pub(crate) fn run(context: &Context<'_>, args: &ServeArgs) -> Result {
    // That there is one is said before anything is listened for; it is opened anew, for reading alone.
    let root = context.existing_root()?;
    watch_signals();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let site = serve::Site::open(&root, SocketAddr::new(args.host, args.port)).await?;
        let address = format!("http://{}", site.address());
        if context.global.json {
            print_as_it_is(&json!({"schema": "serve/1", "address": address}).to_string())?;
        } else {
            print(&address)?;
        }
        if !args.host.is_loopback() {
            context.say("warning: everybody who can reach this machine can look at this store");
        }
        context.say("end it with Ctrl-C");
        let stop = async {
            while !STOP.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        Ok(site.run(stop).await?)
    })
}

impl From<serve::Error> for CommandError {
    fn from(e: serve::Error) -> Self {
        match e {
            serve::Error::Store(e) => e.into(),
            e @ serve::Error::Address(..) => Self::new(Kind::Environment, e.to_string())
                .hint("take another with --port, or any free one with --port 0"),
            e @ serve::Error::Serving(_) => Self::new(Kind::Environment, e.to_string()),
        }
    }
}
