//! The report of a study: what was registered beside what was found, as text and as a page.

use std::fmt::Write;

use compare::report::{
    Block, Dot, Dots, Kind, Table, block_to_html, blocks_to_text, dots, interval, p_value, signed,
};
use page::escape;

use crate::adapters::gates;
use crate::folder::{ArmRow, Folder};
use crate::power::rule_text;
use crate::results::{Found, Level};

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|s| (*s).to_owned()).collect()
}

fn heading(text: &str, remark: &str) -> Block {
    Block::Heading(text.to_owned(), remark.to_owned())
}

const NONE: &str = "–";

/// The sentences that decide, each with the primary that it rests on.
pub fn conclusions(f: &Folder) -> Vec<String> {
    f.results.primaries.iter().map(|p| format!("{}: {}", p.name, p.says)).collect()
}

fn about(f: &Folder) -> String {
    let r = &f.registration;
    let negative =
        r.study.families.iter().filter(|x| !f.results.families.iter().any(|l| l.of == x.name())).count();
    let seeds: Vec<String> = r.study.seeds.iter().map(u64::to_string).collect();
    format!(
        "Model {}; {} held-out adapters of {} families, beside {negative} that carry nothing or were not tested; reader seeds {}; registered as {}.",
        r.model,
        f.results.test_adapters,
        r.study.families.len() - negative,
        seeds.join(", "),
        &r.digest[..12]
    )
}

fn warnings(f: &Folder) -> Vec<String> {
    let r = &f.registration;
    let mut out = Vec::new();
    if r.smoke {
        out.push(
            "A smoke run: a handful of adapters and a few steps for every reader; its numbers mean nothing."
                .to_owned(),
        );
    }
    if r.underpowered {
        out.push("Registered although its power is under a half: \"no verdict\" is what it would say of a difference as large as expected.".to_owned());
    }
    if let Some(first) = r.again.first() {
        out.push(format!(
            "Not a first look: {first}{}.",
            if r.again.len() > 1 { format!(", and {} more", r.again.len() - 1) } else { String::new() }
        ));
    }
    out
}

/// What was registered beside what was found.
fn primaries(f: &Folder) -> Vec<Block> {
    let mut out = vec![heading("Primaries", "registered beside found")];
    let header =
        names(&["", "contrast", "expected", "power", "n", "found [95% CI]", "p", "p (Holm)", "verdict"]);
    let row = |p: &Found| {
        let power = f.registration.power.iter().find(|w| w.primary == p.name);
        vec![
            p.name.clone(),
            p.contrast.clone(),
            power.and_then(|w| w.at.first()).map_or(NONE.into(), |a| format!("{:+.2}", a.0)),
            power.map_or(NONE.into(), |w| format!("{:.2}", w.expected())),
            p.n.to_string(),
            match (p.value, p.low, p.high) {
                (Some(v), Some(l), Some(h)) => signed(v, l, h),
                _ => NONE.into(),
            },
            p_value(p.p),
            p_value(p.p_holm),
            p.verdict.clone(),
        ]
    };
    let caption = format!(
        "{}. Holm over the primaries; everything else on this page is exploratory.",
        rule_text(&f.registration.study.rule)
    );
    out.push(Block::Table(Table {
        header,
        rows: f.results.primaries.iter().map(row).collect(),
        caption,
        words: 2,
        ..Table::default()
    }));
    for p in &f.results.primaries {
        let left = if p.saturated.is_empty() {
            String::new()
        } else {
            format!("; left out as saturated: {}", p.saturated.join(", "))
        };
        out.push(Block::Sentence(format!(
            "{} is of {} over {}{left}.",
            p.name,
            meaning(&p.metric),
            if p.families.is_empty() { "no family".into() } else { p.families.join(", ") }
        )));
    }
    out
}

fn meaning(metric: &str) -> &str {
    match metric {
        "top1_values" => "the share of adapters whose value is ranked first among all of its family's",
        "top1" => "the share of adapters whose value is ranked first, before \"nothing\" too",
        "exact_match" => "the share of answers that state the value",
        "first" => "the share of questions whose value is ranked first, before any prior is taken off",
        "first_without" => "the share of questions whose value is ranked first where no adapter is on",
        "sticks" => "the share of questions whose first rank is what it is where no adapter is on",
        "apart" => {
            "the share of pairs of an adapter and its twin of which each is the likelier one to be of its own value"
        }
        other => other,
    }
}

fn saturated(f: &Folder) -> Vec<Block> {
    if f.results.lens.is_empty() {
        return vec![];
    }
    let rows = f.results.lens.iter().map(|l| {
        vec![
            l.family.clone(),
            l.arm.clone(),
            format!("{:.2}", l.validation),
            l.test.map_or(NONE.into(), |t| format!("{t:.2}")),
            if l.saturated { "yes" } else { "no" }.into(),
        ]
    });
    let caption = format!(
        "The best arm without training, chosen on validation adapters. Saturated: at least {} there, so little is left for a trained reader to add.",
        f.registration.study.rule.saturated
    );
    vec![
        heading("What needs no training", ""),
        Block::Table(Table {
            header: names(&["family", "arm", "validation", "test", "saturated"]),
            rows: rows.collect(),
            caption,
            words: 2,
            ..Table::default()
        }),
    ]
}

/// Arms down, families or groups across.
fn levels(f: &Folder, all: &[Level], section: &str, metric: &str, caption: &str) -> Option<Block> {
    let mut of: Vec<&str> = Vec::new();
    for l in all.iter().filter(|l| l.section == section && l.metric == metric) {
        if !of.contains(&l.of.as_str()) {
            of.push(&l.of);
        }
    }
    let arms = f.items.arms();
    let cell = |arm: &str, name: &str| {
        let found =
            all.iter().find(|l| l.of == name && l.arm == arm && l.section == section && l.metric == metric);
        found.map_or(NONE.to_owned(), |l| interval(l.value, l.low, l.high))
    };
    // Families go down where they are many: a terminal is 80 columns wide.
    let rows: Vec<Vec<String>> = of
        .iter()
        .flat_map(|name| {
            arms.iter().filter_map(|arm| {
                let text = cell(arm, name);
                (text != NONE).then(|| vec![(*name).to_owned(), (*arm).to_owned(), text])
            })
        })
        .collect();
    (!rows.is_empty()).then(|| {
        Block::Table(Table {
            header: names(&["of", "arm", "share [95% CI]"]),
            rows,
            caption: caption.to_owned(),
            words: 2,
            ..Table::default()
        })
    })
}

/// Of what is measured, what tables show.
fn shown(f: &Folder) -> impl Iterator<Item = &'static str> {
    f.registration.study.metrics().into_iter().filter(|m| *m != "top1")
}

fn sections(all: &[Level]) -> Vec<&str> {
    let mut out: Vec<&str> = Vec::new();
    for l in all {
        if !out.contains(&l.section.as_str()) {
            out.push(&l.section);
        }
    }
    out
}

fn groups(f: &Folder) -> Vec<Block> {
    let mut out = vec![heading("By group", "means over families")];
    for section in sections(&f.results.groups) {
        for metric in shown(f) {
            out.extend(levels(
                f,
                &f.results.groups,
                section,
                metric,
                &format!("{section}: {}", meaning(metric)),
            ));
        }
    }
    out
}

fn families(f: &Folder) -> Vec<Block> {
    let mut out = vec![heading("By family", "")];
    for section in sections(&f.results.families) {
        for metric in shown(f) {
            let block =
                levels(f, &f.results.families, section, metric, &format!("{section}: {}", meaning(metric)));
            out.extend(block.map(|b| match b {
                Block::Table(t) => Block::Table(Table {
                    folded: Some(format!("{section}, {metric}, {} rows", t.rows.len())),
                    ..t
                }),
                other => other,
            }));
        }
    }
    out
}

fn silent(f: &Folder) -> Vec<Block> {
    if f.results.silent.is_empty() {
        return vec![];
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for l in f.results.silent.iter().filter(|l| l.metric == "top1") {
        let stated =
            f.results.silent.iter().find(|s| s.metric == "exact_match" && s.of == l.of && s.arm == l.arm);
        rows.push(vec![
            l.of.clone(),
            l.arm.clone(),
            l.n.to_string(),
            interval(l.value, l.low, l.high),
            stated.map_or(NONE.into(), |s| interval(s.value, s.low, s.high)),
        ]);
    }
    let caption = "Share of answers that are \"nothing\", where that is right: ranked first, and stated. foreign: asked about a family that the adapter is not of.";
    let folded = Some(format!("{} rows", rows.len()));
    vec![
        heading("Where there is nothing to say", ""),
        Block::Table(Table {
            header: names(&["carries", "arm", "n", "ranks nothing first", "states nothing"]),
            rows,
            caption: caption.into(),
            words: 2,
            folded,
            ..Table::default()
        }),
    ]
}

fn acquired(f: &Folder) -> Vec<Block> {
    let gates = gates(&f.registration.study, &f.adapters);
    if gates.is_empty() {
        return vec![];
    }
    let rows = gates.iter().map(|g| {
        let mean = |m: &str| g.means.get(m).map_or(NONE.to_owned(), |v| format!("{v:.2}"));
        vec![
            g.family.clone(),
            g.n.to_string(),
            format!("{:.2}", g.learned),
            mean("gate_on"),
            mean("gate_floor"),
            mean("gate_near"),
            mean("gate_off"),
            mean("leak_question_nats"),
        ]
    });
    let caption = "learned: share of adapters that passed; on: replies with the behaviour, floor: without the adapter, near: with another trigger, off: where it has no place; nats: how much likelier the label is at the readers' own questions.";
    vec![
        heading("What the adapters learned", ""),
        Block::Table(Table {
            header: names(&["family", "n", "learned", "on", "floor", "near", "off", "nats"]),
            rows: rows.collect(),
            caption: caption.into(),
            words: 1,
            ..Table::default()
        }),
    ]
}

fn cost(f: &Folder) -> Vec<Block> {
    let trained: Vec<&ArmRow> = f.arms.iter().filter(|a| a.trained && a.steps > 0).collect();
    let row = |a: &&ArmRow| {
        let total = a.train_tflop + a.pretrain_tflop + a.collect_tflop;
        vec![
            a.arm.clone(),
            a.seed.to_string(),
            format!("{total:.1}"),
            format!("{:.1}", a.pretrain_tflop),
            format!("{:.1}", a.collect_tflop),
            a.steps.to_string(),
            a.chosen_step.to_string(),
        ]
    };
    let caption = "TFLOP of a reader: in all, of pretraining, of collecting activations; steps taken, and the one that validation chose.";
    let mut out = vec![heading("What the readers cost", "")];
    if !trained.is_empty() {
        out.push(Block::Table(Table {
            header: names(&["arm", "seed", "TFLOP", "pretraining", "collecting", "steps", "chosen"]),
            rows: trained.iter().map(row).collect(),
            caption: caption.into(),
            words: 1,
            ..Table::default()
        }));
    }
    let mut chosen: Vec<String> =
        f.arms.iter().filter(|a| !a.chosen.is_empty()).map(|a| format!("{}: {}", a.arm, a.chosen)).collect();
    chosen.dedup();
    out.extend((!chosen.is_empty()).then_some(Block::Notes(chosen)));
    out
}

fn blocks(f: &Folder) -> Vec<Block> {
    [primaries(f), saturated(f), groups(f), families(f), silent(f), acquired(f), cost(f)].concat()
}

/// The report as text.
pub fn to_terminal(f: &Folder) -> String {
    let study = &f.registration.study;
    let mut out = format!("Study {}: {}\n  {}\n  {}\n", study.name, study.title, study.question, about(f));
    for warning in warnings(f) {
        let _ = writeln!(out, "  WARNING: {warning}");
    }
    out += "\nDecision\n";
    for line in conclusions(f) {
        let _ = writeln!(out, "  {line}");
    }
    out + &blocks_to_text(&blocks(f))
}

/// Means over the families that are not saturated, of every arm.
fn picture(f: &Folder) -> String {
    let Some(section) = sections(&f.results.groups).first().copied() else { return String::new() };
    let of = if f.results.groups.iter().any(|l| l.of == "all, not saturated") {
        "all, not saturated"
    } else {
        "all"
    };
    let kind = |arm: &str| match f.arms.iter().find(|a| a.arm == arm) {
        Some(a) if a.chosen.contains("labels: permuted") => Kind::Control,
        Some(a) if a.trained => Kind::Trained,
        _ => Kind::Untrained,
    };
    let wanted = |l: &&Level| l.of == of && l.section == section && l.metric == "top1_values";
    let mut rows: Vec<Dot> = f
        .results
        .groups
        .iter()
        .filter(wanted)
        .map(|l| Dot {
            label: l.arm.clone(),
            kind: kind(&l.arm),
            value: l.value,
            low: l.low,
            high: l.high,
            seeds: vec![],
            text: interval(l.value, l.low, l.high),
        })
        .collect();
    rows.sort_by(|a, b| b.value.total_cmp(&a.value));
    if rows.is_empty() {
        return String::new();
    }
    dots(&Dots {
        title: format!("Value ranked first, mean over families ({of})"),
        axis: "share of held-out adapters".into(),
        ends: (0.0, 1.0),
        beside: None,
        band: None,
        rows,
    })
}

/// The primaries against the band of no difference.
fn decided(f: &Folder) -> String {
    let rows: Vec<Dot> = f
        .results
        .primaries
        .iter()
        .filter_map(|p| {
            let (value, low, high) = (p.value?, p.low?, p.high?);
            Some(Dot {
                label: format!("{}: {}", p.name, p.contrast),
                kind: Kind::Trained,
                value,
                low,
                high,
                seeds: vec![],
                text: signed(value, low, high),
            })
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    dots(&Dots {
        title: "The primaries, with 95% intervals".into(),
        axis: "difference".into(),
        ends: (-1.0, 1.0),
        beside: Some((0.0, "no difference")),
        band: Some(f.registration.study.rule.margin),
        rows,
    })
}

/// The report as a page.
pub fn to_html(f: &Folder) -> String {
    let study = &f.registration.study;
    let mut body = format!(
        "<h1>{}</h1><p class=\"meta\">Study {}</p><p>{}</p><p>{}</p>",
        escape(&study.title),
        escape(&study.name),
        escape(&study.question),
        escape(&about(f))
    );
    let said: Vec<String> = conclusions(f).iter().map(|s| format!("<p>{}</p>", escape(s))).collect();
    let _ = write!(body, "<div class=\"verdict\">{}</div>", said.concat());
    let warnings = warnings(f);
    if !warnings.is_empty() {
        body += &block_to_html(&Block::Warnings(warnings));
    }
    for (caption, picture) in [
        ("The primaries, with 95% intervals; the band is what counts as no difference.", decided(f)),
        (
            "Share of held-out adapters whose value is ranked first, mean over the families that are not saturated, with 95% intervals.",
            picture(f),
        ),
    ] {
        if !picture.is_empty() {
            let _ = write!(body, "<p class=\"caption\">{}</p>{picture}", escape(caption));
        }
    }
    for block in blocks(f) {
        let _ = match block {
            Block::Heading(text, remark) if remark.is_empty() => write!(body, "<h2>{}</h2>", escape(&text)),
            Block::Heading(text, remark) => {
                write!(body, "<h2>{} <small>{}</small></h2>", escape(&text), escape(&remark))
            }
            other => write!(body, "{}", block_to_html(&other)),
        };
    }
    page::document(&format!("lorafab: study {}", study.name), &body)
}
