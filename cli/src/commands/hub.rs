//! `hub push|pull`: a collection of adapters on the Hugging Face Hub.

use std::time::Instant;

use exchange::hub::{self, Client, Options, Patience, Place, Progress, Remote, RepoKind, Token, Trouble};
use serde_json::json;

use super::adapter::{chosen, looked_at};
use crate::args::{HubCommand, HubPlace};
use crate::context::{Context, stopped, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};

/// Seconds between two lines about progress.
const QUIET: f64 = 2.0;
/// Uploads at the same time.
const UPLOADS: usize = 4;

pub(crate) fn run(context: &Context<'_>, command: &HubCommand) -> Result {
    match command {
        HubCommand::Push { place, conditions, public, dry_run } => {
            push(context, place, conditions, *public, *dry_run)
        }
        HubCommand::Pull { place, dry_run } => pull(context, place, *dry_run),
    }
}

fn client(place: &HubPlace) -> Result<(Client, bool)> {
    let kind = if place.repo_type == "model" { RepoKind::Model } else { RepoKind::Dataset };
    let place = Place::new(kind, &place.repository, &place.revision)?;
    let hub = Context::hub();
    let token = match &hub.token {
        None => None,
        Some(text) => Some(Token::new(&text.0).ok_or_else(|| {
            CommandError::new(Kind::Usage, "the Hub token holds characters that no token has").hint(TOKEN)
        })?),
    };
    let known = token.is_some();
    let options = Options {
        endpoint: hub.endpoint.unwrap_or_else(|| hub::PUBLIC.into()).trim_end_matches('/').to_owned(),
        token,
        patience: Patience::default(),
        certificates: Context::certificates(),
        uploads: UPLOADS,
        stop: stopped,
    };
    Ok((Client::new(options, place)?, known))
}

/// Where a token comes from.
pub(crate) const TOKEN: &str = "put one with the right to write into HF_TOKEN or $HF_HOME/token (https://huggingface.co/settings/tokens)";

fn offline(context: &Context<'_>, repository: &str) -> Result {
    if context.offline() {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{repository} is on the Hub, and offline mode forbids the network"),
        )
        .hint("run it without --offline and HF_HUB_OFFLINE"));
    }
    Ok(())
}

fn push(
    context: &Context<'_>,
    place: &HubPlace,
    conditions: &[String],
    public: bool,
    dry_run: bool,
) -> Result {
    let store = context.existing_store()?;
    let records = chosen(&store, conditions)?;
    let (client, token) = client(place)?;
    if !dry_run {
        offline(context, &place.repository)?;
        if !token {
            return Err(CommandError::new(
                Kind::Usage,
                "pushing needs a Hub token: none is in HF_TOKEN or $HF_HOME/token",
            )
            .hint(TOKEN));
        }
    }
    watch_signals();
    // What is there can be seen with a token only, or by everyone; a plan without a look is for an empty repository.
    let look = !context.offline() && (token || !dry_run);
    let remote = if look { client.look()? } else { Remote::default() };
    if look {
        context.say(&format!("comparing {} with {}", count(records.len(), "adapter"), client.page()));
    } else {
        context.say(
            "without a token or a network the repository is not looked at: this is the plan for an empty one",
        );
    }
    let plan = hub::push_plan(&store, &records, &client, &remote)?;
    if plan.files_after > exchange::dataset::HUB_FILES {
        context.say("warning: that is more files than a repository on the Hub should hold; push in parts to several, with --where");
    }
    let page = client.page();
    if dry_run {
        if context.global.json {
            let mut value = json!({"schema": "hub-push/1", "dry_run": true, "page": page, "looked_at": look});
            merge(&mut value, &plan);
            return print_json(&value);
        }
        return print(&format!(
            "{} ({} already there), {} of {}, {}",
            count(plan.adapters, "adapter"),
            plan.already_there,
            count(plan.files, "file"),
            bytes(plan.bytes),
            count(plan.commits, "commit")
        ));
    }
    let done = hub::push(&store, &plan, &client, &remote, public, &mut meter(context, "sending"))?;
    if public && !done.created {
        context.say("the repository was there already: --public leaves its visibility as it is");
    }
    if context.global.json {
        let mut value = json!({"schema": "hub-push/1", "dry_run": false, "page": page, "adapters": plan.adapters,
            "already_there": plan.already_there});
        merge(&mut value, &done);
        return print_json(&value);
    }
    context.say(&format!(
        "{} sent, {} already there, {}",
        count(done.sent, "adapter"),
        plan.already_there,
        count(done.commits, "commit")
    ));
    print(&page)
}

fn pull(context: &Context<'_>, place: &HubPlace, dry_run: bool) -> Result {
    offline(context, &place.repository)?;
    let (client, _) = client(place)?;
    watch_signals();
    let remote = client.look()?;
    let mut store = context.store()?;
    let page = client.page();
    if dry_run {
        let (wanted, known, size) = hub::pull_plan(&store, &client, &remote)?;
        if context.global.json {
            return print_json(
                &json!({"schema": "hub-pull/1", "dry_run": true, "page": page, "wanted": wanted, "known": known,
                "weights_bytes": size}),
            );
        }
        return print(&format!(
            "{} to fetch ({} of weights), {} known",
            count(wanted.len(), "adapter"),
            bytes(size),
            known.len()
        ));
    }
    let done = hub::pull(&mut store, &client, &remote, &looked_at, &mut meter(context, "fetching"))?;
    if context.global.json {
        let mut value = json!({"schema": "hub-pull/1", "dry_run": false, "page": page});
        merge(&mut value, &done);
        print_json(&value)?;
    } else {
        print(&format!("{} added, {} known", count(done.added.len(), "adapter"), done.known.len()))?;
        if !done.made_otherwise.is_empty() {
            context.say(&format!(
                "{} left out: the store made its own from the same specification, with other bytes",
                count(done.made_otherwise.len(), "adapter")
            ));
        }
        for refusal in &done.refused {
            context.say(&format!("refused: {}: {}", refusal.behaviour, refusal.why));
        }
    }
    match done.refused.len() {
        0 => Ok(()),
        n => Err(CommandError::new(
            Kind::Negative,
            format!("{} of {page} refused, the first because {}", count(n, "adapter"), done.refused[0].why),
        )),
    }
}

/// Adds the fields of a result to a JSON object.
fn merge(value: &mut serde_json::Value, result: &impl serde::Serialize) {
    if let (Some(object), Ok(serde_json::Value::Object(fields))) =
        (value.as_object_mut(), serde_json::to_value(result))
    {
        object.extend(fields);
    }
}

/// `3.4 MB`.
fn bytes(n: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let power = (n.max(1).ilog10() / 3).min(4);
    let value = n as f64 / 1000f64.powi(power as i32);
    if power == 0 { format!("{n} bytes") } else { format!("{value:.1} {}", units[power as usize]) }
}

/// Says how far a transfer is: what, how far, at what rate, how long it will take.
fn meter<'a>(context: &'a Context<'_>, what: &'static str) -> impl FnMut(Progress) + Send + 'a {
    let begin = Instant::now();
    let mut last = 0.0;
    move |at: Progress| {
        let seconds = begin.elapsed().as_secs_f64();
        if at.bytes == 0 || (seconds - last < QUIET && at.done < at.adapters) {
            return;
        }
        last = seconds;
        let rate = at.bytes_done as f64 / seconds.max(1e-3);
        let left = if at.bytes_done == 0 {
            String::new()
        } else {
            format!("  {:.0}s left", at.bytes.saturating_sub(at.bytes_done) as f64 / rate)
        };
        context.say(&format!(
            "{what}  adapter {}/{}  {} of {}  {}/s{left}",
            at.done,
            at.adapters,
            bytes(at.bytes_done),
            bytes(at.bytes),
            bytes(rate as u64)
        ));
    }
}

/// What to do about trouble with the Hub.
pub(crate) fn advice(trouble: Trouble) -> (Kind, Option<&'static str>) {
    match trouble {
        Trouble::Name => (Kind::Usage, None),
        Trouble::Right => (Kind::Environment, Some(TOKEN)),
        Trouble::Absent => (
            Kind::NotFound,
            Some(
                "check the name, --repo-type and --revision; a private repository needs a token in HF_TOKEN or $HF_HOME/token",
            ),
        ),
        Trouble::Network => (Kind::Environment, Some("run the same command again: it goes on where it was")),
        Trouble::Stopped => (Kind::Interrupted, Some("run the same command again to go on")),
    }
}
