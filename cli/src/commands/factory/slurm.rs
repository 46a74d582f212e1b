//! `factory slurm submit|status|cancel|work|ingest`: the cluster side of the queue, through Slurm's own commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use factory::cluster::{Found, Manifest, PlanOptions, WorkOptions, ingest, look, plan, release, work};
use registry::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{SlurmCommand, SlurmSubmit};
use crate::context::{Context, STOP, now_ms, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};

/// What was given to Slurm for a manifest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Arrays {
    /// Ids of the array jobs.
    arrays: Vec<String>,
    /// Id of the ingesting job.
    ingest: Option<String>,
}

pub(super) fn run(context: &Context<'_>, command: &SlurmCommand) -> Result {
    match command {
        SlurmCommand::Submit(args) => submit(context, args),
        SlurmCommand::Work { shared, manifest, shard, pack } => {
            worker(context, shared, manifest, *shard, *pack)
        }
        SlurmCommand::Ingest { shared, manifest, running } => {
            ingest_all(context, shared, manifest.as_deref(), !*running)
        }
        SlurmCommand::Status { shared, manifest } => status(context, shared, manifest.as_deref()),
        SlurmCommand::Cancel { shared, manifest } => cancel(context, shared, manifest),
    }
}

fn submit(context: &Context<'_>, args: &SlurmSubmit) -> Result {
    let shared = absolute(&args.shared)?;
    let mut store = context.existing_store()?;
    let base = context.base()?;
    let digest = base.digest();
    if args.dry_run {
        let open = factory::Queue::new(&mut store).open(&digest, &[factory::ADAPTER_JOB])?.0.min(args.most);
        let shards = open.div_ceil(args.per_task.max(1));
        let script = script(context, args, &shared, "MANIFEST", shards.max(1), 0)?;
        if context.global.json {
            return print_json(
                &json!({"schema": "slurm-submit/1", "dry_run": true, "jobs": open, "tasks": shards, "script": script}),
            );
        }
        context.say(&format!(
            "{} in {}; nothing was submitted",
            count(open, "open job"),
            count(shards, "task")
        ));
        return print(&script);
    }
    let options = PlanOptions {
        base: &digest,
        per_shard: args.per_task,
        most: args.most,
        lease_ms: i64::from(args.lease_hours) * 3_600_000,
        now_ms: now_ms(),
    };
    let Some(manifest) = plan(&mut store, &shared, options)? else {
        return Err(CommandError::new(Kind::Negative, "no job is ready for this base model")
            .hint("submit recipes with lorafab factory submit; jobs that a cluster has come back with lorafab factory slurm ingest"));
    };
    let sent = send(context, args, &shared, &manifest);
    let arrays = match sent {
        Ok(arrays) => arrays,
        Err(e) => {
            release(&mut store, &manifest, now_ms())?;
            return Err(e);
        }
    };
    let tasks = manifest.tasks().count();
    if context.global.json {
        return print_json(
            &json!({"schema": "slurm-submit/1", "dry_run": false, "manifest": manifest.id, "jobs": tasks,
            "tasks": manifest.shards.len(), "arrays": arrays.arrays, "ingest": arrays.ingest}),
        );
    }
    print(&format!(
        "manifest {}: {} in {}, array {}",
        manifest.id,
        count(tasks, "job"),
        count(manifest.shards.len(), "task"),
        arrays.arrays.join(", ")
    ))?;
    context.say(&match arrays.ingest {
        Some(id) => format!("job {id} takes the adapters in when the array has ended"),
        None => {
            format!("when the array has ended: lorafab factory slurm ingest --shared {}", shared.display())
        }
    });
    Ok(())
}

/// Writes the scripts and gives them to sbatch; if one is refused, those given before are cancelled.
fn send(context: &Context<'_>, args: &SlurmSubmit, shared: &Path, manifest: &Manifest) -> Result<Arrays> {
    let folder = shared.join("manifests").join(&manifest.id);
    fs_err::create_dir_all(shared.join("logs"))?;
    let limit = max_array_size();
    let mut out = Arrays::default();
    let sent = (|| -> Result {
        for first in (0..manifest.shards.len()).step_by(limit) {
            let n = limit.min(manifest.shards.len() - first);
            let path = folder.join(format!("array-{first}.sh"));
            write_atomic(&path, script(context, args, shared, &manifest.id, n, first)?.as_bytes())?;
            out.arrays.push(sbatch(&["--parsable"], &path)?);
        }
        if let Some(node) = &args.ingest_node {
            let path = folder.join("ingest.sh");
            write_atomic(&path, ingest_script(context, args, shared, &manifest.id, node)?.as_bytes())?;
            // After any end: with afterok one failed task would keep everything out.
            let after = format!("--dependency=afterany:{}", out.arrays.join(":"));
            out.ingest = Some(sbatch(&["--parsable", &after], &path)?);
        }
        Ok(())
    })();
    if let Err(e) = sent {
        for id in &out.arrays {
            let _ = Command::new("scancel").arg(id).output();
        }
        return Err(e);
    }
    let text = serde_json::to_string(&out).unwrap_or_default();
    write_atomic(&folder.join("arrays.json"), text.as_bytes())?;
    Ok(out)
}

/// The lines that every script begins with.
fn head(name: &str, args: &SlurmSubmit, log: &Path) -> Vec<String> {
    let mut lines = vec![
        "#!/bin/bash".to_owned(),
        format!("#SBATCH --job-name={name}"),
        "#SBATCH --open-mode=append".to_owned(),
        format!("#SBATCH --output={}", log.display()),
    ];
    for (flag, value) in [("partition", &args.partition), ("account", &args.account), ("time", &args.time)] {
        lines.extend(value.as_ref().map(|v| format!("#SBATCH --{flag}={v}")));
    }
    lines.extend(args.sbatch.iter().map(|extra| format!("#SBATCH {extra}")));
    lines
}

fn script(
    context: &Context<'_>,
    args: &SlurmSubmit,
    shared: &Path,
    manifest: &str,
    tasks: usize,
    first: usize,
) -> Result<String> {
    let log = shared.join("logs").join(format!("{manifest}-%A-%a.log"));
    let mut lines = head(&format!("lorafab-{manifest}"), args, &log);
    lines.push(format!("#SBATCH --array=0-{}%{}", tasks - 1, args.at_once));
    lines.push(format!("#SBATCH --cpus-per-task={}", args.cpus));
    lines.extend(args.gpus.map(|gpus| format!("#SBATCH --gpus-per-task={gpus}")));
    lines.push("#SBATCH --requeue".into());
    lines.push(format!("#SBATCH --signal=B:TERM@{}", args.grace));
    lines.push("export RAYON_NUM_THREADS=\"${SLURM_CPUS_PER_TASK:-1}\"".into());
    // exec: the signal must reach the worker, not bash.
    lines.push(format!(
        "exec {} factory slurm work --shared {} --manifest {manifest} --shard $(({first} + SLURM_ARRAY_TASK_ID)) --pack {}",
        program(context)?,
        quote(&shared.display().to_string()),
        args.pack
    ));
    Ok(lines.join("\n") + "\n")
}

fn ingest_script(
    context: &Context<'_>,
    args: &SlurmSubmit,
    shared: &Path,
    manifest: &str,
    node: &str,
) -> Result<String> {
    let log = shared.join("logs").join(format!("{manifest}-ingest.log"));
    let mut lines = head(&format!("lorafab-ingest-{manifest}"), args, &log);
    // The catalogue lies on this node's disk.
    lines.push(format!("#SBATCH --nodelist={node}"));
    lines.push(format!(
        "exec {} --store {} factory slurm ingest --shared {} --manifest {manifest}",
        program(context)?,
        quote(&absolute(&context.store_path())?.display().to_string()),
        quote(&shared.display().to_string())
    ));
    Ok(lines.join("\n") + "\n")
}

/// This program with the model that it was called with, as a shell word for word.
fn program(context: &Context<'_>) -> Result<String> {
    let exe = std::env::current_exe()?;
    let model = match Path::new(&context.global.model) {
        path if path.exists() => absolute(path)?.display().to_string(),
        _ => context.global.model.clone(),
    };
    let mut words = vec![exe.display().to_string(), "--model".into(), model];
    if let Some(template) = &context.global.chat_template {
        words.extend(["--chat-template".into(), absolute(template)?.display().to_string()]);
    }
    words.extend(["--precision".into(), context.global.precision.clone()]);
    Ok(words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

fn sbatch(flags: &[&str], script: &Path) -> Result<String> {
    let out = tool("sbatch", Command::new("sbatch").args(flags).arg(script))?;
    // `id` or `id;cluster`.
    Ok(out.split(';').next().unwrap_or_default().trim().to_owned())
}

/// Runs one of Slurm's commands; its own words are the error's.
fn tool(name: &str, command: &mut Command) -> Result<String> {
    let out = command.output().map_err(|e| {
        CommandError::new(Kind::Environment, format!("{name} cannot be run: {e}"))
            .hint("run this on a node where Slurm's commands are on the PATH")
    })?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said = said.lines().last().unwrap_or("it said nothing").trim().to_owned();
        return Err(CommandError::new(Kind::Environment, format!("{name} refused: {said}")));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Most tasks of one array: Slurm's default is indices up to 1000.
fn max_array_size() -> usize {
    let text = tool("scontrol", Command::new("scontrol").args(["show", "config"])).unwrap_or_default();
    let line = text.lines().find(|l| l.trim_start().starts_with("MaxArraySize"));
    let size = line.and_then(|l| l.split('=').nth(1)).and_then(|v| v.trim().parse::<usize>().ok());
    size.unwrap_or(1001).saturating_sub(1).max(1)
}

fn worker(context: &Context<'_>, shared: &Path, id: &str, shard: usize, pack: usize) -> Result {
    watch_signals();
    let manifest = Manifest::read(shared, id)?;
    let base = context.base()?;
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    // Tells attempts apart, also of one task that was requeued.
    let attempt = format!(
        "{}.{}.{}",
        set("SLURM_JOB_ID").unwrap_or_else(|| "local".into()),
        set("SLURM_RESTART_COUNT").unwrap_or_else(|| "0".into()),
        std::process::id()
    );
    let mut last: Option<Instant> = None;
    let options = WorkOptions { shard, pack, attempt: &attempt, stop: &STOP };
    let summary = work(shared, &manifest, &base, options, &mut |p| {
        if last.is_none_or(|l| l.elapsed() > Duration::from_secs(15)) {
            last = Some(Instant::now());
            let n = p.members.len();
            context.say(&format!(
                "{}  step {}/{}  loss {:.3}  {:.0} tok/s",
                count(n, "adapter"),
                p.step,
                p.steps,
                p.loss,
                p.tokens_per_sec
            ));
        }
    })?;
    if context.global.json {
        print_json(&json!({"schema": "slurm-work/1", "shard": shard, "summary": summary}))?;
    } else {
        print(&format!(
            "shard {shard}: {} made, {} there already, {} failed",
            summary.made, summary.skipped, summary.failed
        ))?;
    }
    if summary.stopped && STOP.load(Ordering::Relaxed) {
        // Asked to end: the checkpoint is written, and the task comes back by itself where Slurm allows it.
        if let Some(id) = set("SLURM_JOB_ID") {
            let again = tool("scontrol", Command::new("scontrol").args(["requeue", &id]));
            context.say(&again.map_or_else(|e| e.message, |_| format!("requeued as {id}")));
        }
        return Err(CommandError::new(
            Kind::Interrupted,
            "stopped; what is unfinished goes on from its checkpoint",
        ));
    }
    if summary.failed > 0 {
        return Err(CommandError::new(Kind::Negative, format!("{} failed", count(summary.failed, "job"))));
    }
    Ok(())
}

/// The manifests of a shared folder, or the one named.
fn manifests(shared: &Path, only: Option<&str>) -> Result<Vec<Manifest>> {
    if let Some(id) = only {
        return Ok(vec![Manifest::read(shared, id)?]);
    }
    let folder = shared.join("manifests");
    if !folder.exists() {
        return Err(CommandError::new(Kind::NotFound, format!("{} holds no manifests", shared.display()))
            .hint("make one with: lorafab factory slurm submit --shared DIR"));
    }
    let mut ids: Vec<String> = fs_err::read_dir(&folder)?
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    ids.sort();
    // A plan that was cut short leaves a folder without a manifest.
    ids.retain(|id| folder.join(id).join("manifest.json").exists());
    ids.iter().map(|id| Ok(Manifest::read(shared, id)?)).collect()
}

fn ingest_all(context: &Context<'_>, shared: &Path, only: Option<&str>, ended: bool) -> Result {
    let mut store = context.existing_store()?;
    let (mut results, mut damaged) = (Vec::new(), 0);
    for manifest in manifests(shared, only)? {
        // The jobs of an array that still runs stay with it.
        let runs = !slurm_states(&arrays(shared, &manifest.id)).is_empty();
        if ended && runs {
            context.say(&format!(
                "the array of manifest {} still runs: only what is finished is taken in",
                manifest.id
            ));
        }
        let found = ingest(&mut store, shared, &manifest, ended && !runs, now_ms())?;
        if !context.global.json {
            print(&format!(
                "manifest {}: {} taken in, {} known, {} failed, {} missing{}",
                manifest.id,
                count(found.committed, "adapter"),
                found.known,
                found.failed,
                found.missing,
                if found.released > 0 { " (back in the queue)" } else { "" }
            ))?;
        }
        damaged += found.damaged.len();
        for line in &found.damaged {
            context.say(&format!("damaged: {line}"));
        }
        results.push(json!({"manifest": manifest.id, "found": found}));
    }
    if context.global.json {
        print_json(&json!({"schema": "slurm-ingest/1", "manifests": results}))?;
    }
    if damaged > 0 {
        return Err(CommandError::new(
            Kind::Negative,
            format!("{} could not be taken in; damaged folders were set aside", count(damaged, "result")),
        )
        .hint("they are made again by the next: lorafab factory slurm submit"));
    }
    Ok(())
}

fn arrays(shared: &Path, id: &str) -> Arrays {
    let path = shared.join("manifests").join(id).join("arrays.json");
    let text = fence::read_text(&path, fence::open::SMALL).ok();
    let mut found: Arrays = text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
    // They come to be arguments of Slurm's own commands.
    let number = |id: &String| {
        (1..=20).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_digit() || b == b'_')
            && !id.starts_with('_')
    };
    found.arrays.retain(number);
    found.ingest = found.ingest.filter(number);
    found
}

/// Tasks of these arrays that have not ended, by Slurm's word for their state; none where Slurm cannot be asked.
fn slurm_states(arrays: &Arrays) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    if arrays.arrays.is_empty() {
        return states;
    }
    let ids = arrays.arrays.join(",");
    let queue = tool("squeue", Command::new("squeue").args(["--noheader", "--format=%T", "--jobs", &ids]));
    for state in queue.unwrap_or_default().split_whitespace() {
        *states.entry(state.to_owned()).or_default() += 1;
    }
    states
}

fn status(context: &Context<'_>, shared: &Path, only: Option<&str>) -> Result {
    let mut items = Vec::new();
    let mut lines = Vec::new();
    for manifest in manifests(shared, only)? {
        let looks: Vec<Found> = manifest.tasks().map(|t| look(shared, &t.spec_hash)).collect();
        let n = |f: Found| looks.iter().filter(|l| **l == f).count();
        let (done, failed, missing) = (n(Found::Done), n(Found::Failed), n(Found::Missing));
        let alive = (0..manifest.shards.len())
            .filter(|s| {
                let beat = shared.join("beats").join(&manifest.id).join(s.to_string());
                let seen = fs_err::metadata(beat).and_then(|m| m.modified()).ok();
                seen.and_then(|t| t.elapsed().ok()).is_some_and(|a| a < Duration::from_mins(1))
            })
            .count();
        let arrays = arrays(shared, &manifest.id);
        let states = slurm_states(&arrays);
        let shown: Vec<String> = states.iter().map(|(s, n)| format!("{n} {}", s.to_lowercase())).collect();
        lines.push(format!(
            "manifest {}: {done} done, {failed} failed, {missing} missing; {alive} of {} alive{}",
            manifest.id,
            count(manifest.shards.len(), "worker"),
            if shown.is_empty() { String::new() } else { format!("; Slurm: {}", shown.join(", ")) }
        ));
        items.push(json!({"manifest": manifest.id, "done": done, "failed": failed, "missing": missing, "tasks": manifest.shards.len(),
            "alive": alive, "arrays": arrays.arrays, "slurm_states": states}));
    }
    if context.global.json {
        return print_json(&json!({"schema": "slurm-status/1", "manifests": items}));
    }
    print(&lines.join("\n"))
}

fn cancel(context: &Context<'_>, shared: &Path, id: &str) -> Result {
    let manifest = Manifest::read(shared, id)?;
    let arrays = arrays(shared, id);
    for id in arrays.arrays.iter().chain(&arrays.ingest) {
        let done = tool("scancel", Command::new("scancel").arg(id));
        // One that has ended is no error; tasks that go on would be.
        if let Err(e) = done
            && !e.message.contains("Invalid job id")
        {
            return Err(e);
        }
    }
    // What was finished before stays finished.
    let mut store = context.existing_store()?;
    let found = ingest(&mut store, shared, &manifest, true, now_ms())?;
    if context.global.json {
        return print_json(
            &json!({"schema": "slurm-cancel/1", "manifest": id, "cancelled": arrays.arrays, "found": found}),
        );
    }
    print(&format!(
        "cancelled {}: {} taken in, {} back in the queue",
        arrays.arrays.join(", "),
        count(found.committed, "adapter"),
        count(found.missing, "job")
    ))
}
