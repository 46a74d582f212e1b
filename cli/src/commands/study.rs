//! `study plan|register|run|status|report|verify|list`: from a question in a file to a decision that anybody can check again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::compare::{Arms, Plan, jobs};
use ::factory::queue::NewJob;
use ::factory::{Queue, SubmitOptions};
use ::study::registration::{self, Insist, LEAST_POWER};
use ::study::{Folder, Registration, Resolved, Study, cost, power, report, resolve};
use clap::Subcommand;
use fence::open::SMALL;
use lm::product_rate;
use lm::{BaseModel, Outline};
use registry::{Filter, Store};
use serde_json::json;

use super::compare::{settle, work_to};
use super::runs;
use super::settings::Settling;
use crate::args::at_least_one;
use crate::context::{Context, gone, now_ms, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table, write_out};

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// Say what a study would cost, and how often it would decide; nothing is filed or made
    Plan {
        /// File of the study
        file: PathBuf,
        /// Its smoke form
        #[arg(long)]
        smoke: bool,
    },
    /// File a study before any of its test adapters is made; what is registered does not change
    Register {
        /// File of the study
        file: PathBuf,
        /// A handful of adapters and a few steps, as NAME-smoke; its numbers mean nothing
        #[arg(long)]
        smoke: bool,
        /// Although a primary's power is under a half
        #[arg(long)]
        underpowered: bool,
        /// Although test values of it were looked at before; the report says so
        #[arg(long)]
        again: bool,
    },
    /// Make what a registered study needs, and report; again to go on after an interruption
    Run {
        /// Name of the study
        #[arg(id = "study", value_name = "NAME")]
        name: String,
        /// Adapters trained in one batch
        #[arg(long, default_value_t = 8, value_parser = at_least_one)]
        pack: usize,
        /// Queue its jobs and work on none: other workers or a cluster do
        #[arg(long)]
        queue_only: bool,
    },
    /// Show how far a study's jobs are
    Status {
        /// Name of the study
        #[arg(id = "study", value_name = "NAME")]
        name: String,
    },
    /// Print the report of a finished study
    #[command(visible_alias = "show")]
    Report {
        /// Name of the study
        #[arg(id = "study", value_name = "NAME")]
        name: String,
        /// Write the report as a web page to this file
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Write everything that is published into this folder: study, registration, items, results, report
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Recompute published studies from their items: every figure and the report have to come out the same
    Verify {
        /// Folders, as `study report --out` writes them
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// List registered studies
    #[command(visible_alias = "ls")]
    List,
}

pub(crate) fn run(context: &Context<'_>, command: &StudyCommand) -> Result {
    match command {
        StudyCommand::Plan { file, smoke } => plan(context, file, *smoke),
        StudyCommand::Register { file, smoke, underpowered, again } => {
            register(context, file, *smoke, Insist { underpowered: *underpowered, again: *again })
        }
        StudyCommand::Run { name, pack, queue_only } => work(context, name, *pack, *queue_only),
        StudyCommand::Status { name } => status(context, name),
        StudyCommand::Report { name, html, out } => show(context, name, html.as_deref(), out.as_deref()),
        StudyCommand::Verify { folders } => verify(context, folders),
        StudyCommand::List => list(context),
    }
}

/// A study's file with its recipes, in their settings for this model.
fn read(context: &Context<'_>, outline: &Outline, file: &Path, smoke: bool) -> Result<(Resolved, String)> {
    let source = file.display().to_string();
    let text = fence::read_text(file, SMALL)?;
    let mut study = Study::parse(&source, &text)?;
    if smoke {
        study = study.smoke();
    }
    let beside = file.parent().unwrap_or(Path::new("."));
    let within = |e: ::study::Error| match e {
        ::study::Error::Wrong(w) => ::study::Error::at(&source, w.to_string()),
        other => other,
    };
    let recipes = ::study::resolve::recipes_of(&study, beside).map_err(within)?;
    let seen = ::study::resolve::looked_at(&study, beside).map_err(within)?;
    let mut settling = Settling::new(context, None)?;
    let recipes = settling.resolve(outline, recipes)?;
    settling.say(context, outline);
    let resolved = resolve(study, recipes, seen).map_err(within)?;
    arms_of(&resolved, smoke)
        .check(outline, &resolved.recipes)
        .map_err(|e| readers::Wrong::at(source, e.to_string()))?;
    Ok((resolved, text))
}

fn arms_of(resolved: &Resolved, smoke: bool) -> Arms {
    let arms = resolved.study.arms();
    if smoke { arms.smoke() } else { arms }
}

/// All jobs of a study: its adapters, then its comparison, whose report is the last.
fn jobs_of(store: &mut Store, outline: &Outline, resolved: &Resolved, smoke: bool) -> Result<Vec<NewJob>> {
    let options =
        SubmitOptions { tags: vec![format!("study:{}", resolved.study.name)], ..SubmitOptions::default() };
    let mut list = ::factory::jobs(&resolved.behaviours, &outline.digest(), &[], &options)?;
    let hashes = list.iter().map(|j| j.spec_hash.clone()).collect();
    let mut arms = arms_of(resolved, smoke);
    for (i, new) in settle(store, outline, &mut arms)? {
        arms.arms[i].reader = Some(store.commit_adapter(new)?.id);
    }
    let plan = Plan { run: &resolved.study.name, smoke, seed: resolved.study.seed, made: false };
    list.extend(jobs(outline, hashes, &arms, plan, &options));
    Ok(list)
}

fn plan(context: &Context<'_>, file: &Path, smoke: bool) -> Result {
    let outline = context.outline()?;
    let (resolved, _) = read(context, &outline, file, smoke)?;
    let store = if context.has_catalogue() { Some(context.store_to_look()?) } else { None };
    let (rate, measured) = rate(store.as_ref(), &outline)?;
    let comparison = Plan { run: &resolved.study.name, smoke, seed: resolved.study.seed, made: false };
    let arms = arms_of(&resolved, smoke);
    let n = resolved.behaviours.len()
        + jobs(&outline, vec![], &arms, comparison, &SubmitOptions::default()).len();
    let plan = cost::plan(&resolved, &outline, store.as_ref(), rate, n)?;
    let rows = power::power(&resolved.study, &resolved.carrying());
    if context.global.json {
        let mut value = serde_json::to_value(&plan).unwrap_or_default();
        value["power"] = serde_json::to_value(&rows).unwrap_or_default();
        value["hours"] = json!(plan.hours());
        return print_json(&value);
    }
    let study = &resolved.study;
    print(&format!("Study {}: {}\n  {}\n", study.name, study.title, study.question))?;
    let families: Vec<Vec<String>> = study
        .families
        .iter()
        .zip(&plan.families)
        .map(|(f, c)| {
            let how =
                if c.measured_on > 0 { format!("measured on {}", c.measured_on) } else { "at most".into() };
            let uses = [f.train, f.validation, f.test].map(|n| n.to_string());
            let [train, validation, test] = uses;
            vec![
                c.family.clone(),
                f.group.clone(),
                train,
                validation,
                test,
                format!("{:.1}", c.seconds_each),
                how,
            ]
        })
        .collect();
    print(&table(&["family", "group", "train", "validation", "test", "seconds each", ""], &families))?;
    let arms: Vec<Vec<String>> = plan
        .arms
        .iter()
        .map(|a| {
            vec![
                a.arm.clone(),
                a.seeds.to_string(),
                format!("{:.1}", a.train_tflop),
                format!("{:.1}", a.score_tflop),
            ]
        })
        .collect();
    print(&format!("\n{}", table(&["arm", "seeds", "TFLOP to train one", "to ask it"], &arms)))?;
    let power: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let at: Vec<String> = r.at.iter().map(|(d, p)| format!("{p:.2} at {d:+.2}")).collect();
            vec![
                r.primary.clone(),
                r.adapters.to_string(),
                r.families.to_string(),
                at.join(", "),
                format!("{:.2}", r.equal_at_zero),
            ]
        })
        .collect();
    print(&format!("\n{}", table(&["primary", "adapters", "families", "power", "none found at 0"], &power)))?;
    print(&format!(
        "\n{} adapters, {} jobs; about {:.1} hours on this machine: {:.1} of adapters, {:.1} of readers and {} questions an arm, at {:.0} GFLOP/s ({}).",
        resolved.behaviours.len(),
        plan.jobs,
        plan.hours(),
        plan.adapter_hours,
        plan.reader_hours,
        plan.questions,
        rate / 1e9,
        if measured {
            "what readers were trained at here"
        } else {
            "the rate of its matrix products, measured now: no reader was trained here yet, and readers take longer; seconds \"at most\" are with every row and reply at full length"
        }
    ))?;
    if let Some(weak) = rows.iter().find(|r| r.expected() < LEAST_POWER) {
        context.say(&format!(
            "warning: the power of {} is {:.2} at the difference that is expected: more often than not it would end without a verdict; to register it all the same: --underpowered",
            weak.primary,
            weak.expected()
        ));
    }
    Ok(())
}

/// FLOPs a second: what readers were trained at in this store, else the rate of products.
fn rate(store: Option<&Store>, outline: &Outline) -> Result<(f64, bool)> {
    let (mut flops, mut seconds) = (0.0, 0.0);
    for role in ["dit_adapter", "oracle"] {
        let Some(store) = store else { break };
        for r in store.adapters(&Filter::all().equals("role", role))? {
            let here = r.lineage.get("base").is_some_and(|b| *b == outline.digest());
            if let (true, Some(f), Some(s)) = (here, r.metrics.get("train_flops"), r.metrics.get("seconds")) {
                flops += f;
                seconds += s;
            }
        }
    }
    Ok(if seconds > 1.0 && flops > 0.0 {
        (flops / seconds, true)
    } else {
        (product_rate(outline.precision), false)
    })
}

fn register(context: &Context<'_>, file: &Path, smoke: bool, insist: Insist) -> Result {
    let outline = context.outline()?;
    let (resolved, text) = read(context, &outline, file, smoke)?;
    let mut store = context.store()?;
    let new = Registration::of(&resolved, (outline.placeless_name(), &outline.digest()), smoke);
    let done = registration::register(&mut store, new, &resolved, &text, insist)?;
    if context.global.json {
        return print_json(&serde_json::to_value(&done).unwrap_or_default());
    }
    print(&format!("registered {} as {}", done.study.name, done.digest))?;
    context.say(&format!("next: lorafab study run {}", done.study.name));
    Ok(())
}

/// A registered study as it was resolved then.
fn registered(store: &Store, outline: &Outline, name: &str) -> Result<(Registration, Resolved, String)> {
    let (registration, recipes, source) = registration::find(store, name)?;
    if registration.base != outline.digest() {
        let what = format!(
            "the study {name:?} was registered for {} at another precision or of other weights",
            registration.model
        );
        return Err(CommandError::new(Kind::Usage, what)
            .hint("pass the --model and --precision that it was registered with"));
    }
    if registration.trainer_version != ::factory::spec::TRAINER_VERSION {
        let what = format!("the study {name:?} was registered with another version of the trainer");
        return Err(CommandError::new(Kind::Usage, what).hint("register it again under another name"));
    }
    let resolved = resolve(registration.study.clone(), recipes, BTreeSet::new())?;
    if resolved.values().into_iter().collect::<BTreeMap<_, _>>() != registration.values {
        let what = format!("the study {name:?} was registered with a build that chose other adapters");
        return Err(CommandError::new(Kind::Usage, what).hint("register it again under another name"));
    }
    Ok((registration, resolved, source))
}

fn work(context: &Context<'_>, name: &str, pack: usize, queue_only: bool) -> Result {
    watch_signals();
    let mut store = context.existing_store()?;
    let outline = context.outline()?;
    let (registration, resolved, source) = registered(&store, &outline, name)?;
    let smoke = registration.smoke;
    let list = jobs_of(&mut store, &outline, &resolved, smoke)?;
    ::factory::spec::hold_to_cap(&outline, &resolved.behaviours, SubmitOptions::default().max_flops)?;
    ::factory::spec::remember(&store, &resolved.recipes)?;
    let done = Queue::new(&mut store).submit(&list, now_ms())?;
    context.say(&format!("{} jobs, {} of them known already", list.len(), done.known));
    if queue_only {
        context.say(&format!("next: lorafab factory run, in as many terminals as you like (its adapters: also lorafab factory slurm submit); then lorafab study run {name}"));
        return Ok(());
    }
    // A comparison goes on without an adapter that was given up. Of a registered study none may be missing for having been interrupted.
    let mut queue = Queue::new(&mut store);
    queue.reap(now_ms(), gone)?;
    let hashes: Vec<&str> = list.iter().map(|j| j.spec_hash.as_str()).collect();
    let again = queue.go_on(&hashes, now_ms())?;
    if again > 0 {
        context.say(&format!(
            "{} had been given up after interruptions, and begin anew; to go on without one: lorafab factory cancel LABEL",
            count(again, "job")
        ));
    }
    let report = list.last().map(|j| j.spec_hash.clone()).unwrap_or_default();
    let base: BaseModel = context.base()?;
    work_to(context, &mut store, &base, &report, (name, pack))?;
    let folder = folder(&store, &list, registration, source)?;
    let place = store.root().join("studies").join(name);
    folder.write(&place)?;
    print_report(context, &folder)?;
    context.say(&format!("the same with pictures: {}", place.join("report.html").display()));
    Ok(())
}

/// What a finished study comes to.
fn folder(store: &Store, list: &[NewJob], registration: Registration, source: String) -> Result<Folder> {
    let run = runs::find(store, Some(&registration.study.name))?;
    let scores = run.scores().map_err(|e| CommandError::new(Kind::Environment, e))?;
    let mut made = Vec::new();
    for job in list.iter().filter(|j| j.kind == ::factory::spec::ADAPTER_JOB) {
        made.extend(store.adapter_by_spec(&job.spec_hash)?);
    }
    Ok(Folder::of(source, registration, &scores, &made))
}

fn print_report(context: &Context<'_>, folder: &Folder) -> Result {
    if context.global.json {
        return print_json(&serde_json::to_value(&folder.results).unwrap_or_default());
    }
    print(report::to_terminal(folder).trim_end())
}

fn status(context: &Context<'_>, name: &str) -> Result {
    let mut store = context.existing_store()?;
    let outline = context.outline()?;
    let (registration, resolved, _) = registered(&store, &outline, name)?;
    let list = jobs_of(&mut store, &outline, &resolved, registration.smoke)?;
    let queue = Queue::new(&mut store);
    let mut states: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for job in &list {
        let state = queue.by_spec(&job.spec_hash)?.map_or("not queued", |j| j.state.name());
        *states.entry(job.kind.clone()).or_default().entry(state).or_default() += 1;
    }
    if context.global.json {
        return print_json(
            &json!({"schema": "study-status/1", "study": name, "registration": registration.digest, "jobs": states}),
        );
    }
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|(kind, of)| {
            let said: Vec<String> = of.iter().map(|(state, n)| format!("{n} {state}")).collect();
            vec![kind.clone(), of.values().sum::<usize>().to_string(), said.join(", ")]
        })
        .collect();
    print(&table(&["work", "jobs", "state"], &rows))
}

fn show(context: &Context<'_>, name: &str, html: Option<&Path>, out: Option<&Path>) -> Result {
    let mut store = context.existing_store()?;
    let outline = context.outline()?;
    let (registration, resolved, source) = registered(&store, &outline, name)?;
    if runs::find(&store, Some(name)).is_err() {
        return Err(CommandError::new(Kind::NotFound, format!("the study {name:?} has no results yet"))
            .hint(format!("go on with: lorafab study run {name}")));
    }
    let list = jobs_of(&mut store, &outline, &resolved, registration.smoke)?;
    let folder = folder(&store, &list, registration, source)?;
    if let Some(out) = out {
        folder.write(out)?;
        context.say(&format!(
            "written to {}; check it with: lorafab study verify {}",
            out.display(),
            out.display()
        ));
    }
    if let Some(file) = html {
        write_out(file, report::to_html(&folder).as_bytes())?;
        return print(&file.display().to_string());
    }
    print_report(context, &folder)
}

fn verify(context: &Context<'_>, folders: &[PathBuf]) -> Result {
    let mut all = Vec::new();
    for folder in folders {
        let made = ::study::verify(folder)?;
        let rows = made.items.rows.len();
        if context.global.json {
            all.push(json!({"folder": folder, "study": made.results.study, "registration": made.results.registration, "items": made.results.items, "rows": rows}));
        } else {
            print(&format!(
                "{}: study {}, {} of items: every figure and the report follow from them",
                folder.display(),
                made.results.study,
                count(rows, "row")
            ))?;
        }
    }
    if context.global.json {
        return print_json(&json!({"schema": "study-verify/1", "verified": all}));
    }
    Ok(())
}

fn list(context: &Context<'_>) -> Result {
    let store = context.existing_store()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for name in registration::names(&store)? {
        let (r, _, _) = registration::find(&store, &name)?;
        let finished = runs::find(&store, Some(&name)).is_ok();
        values.push(json!({"study": name, "title": r.study.title, "model": r.model, "registration": r.digest, "finished": finished}));
        rows.push(vec![
            name,
            r.study.title.clone(),
            r.model.clone(),
            if finished { "reported" } else { "registered" }.into(),
        ]);
    }
    if context.global.json {
        return print_json(&json!({"schema": "studies/1", "studies": values}));
    }
    print(&table(&["study", "title", "model", "state"], &rows))
}
