//! The report: terminal text, JSON, CSV, a web page.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::items::{Arm, Comparison, Control, ResultRow};
use crate::svg::{Dot, Line, escape, intervals, lines};

/// Below this many adapters a row is marked.
const SMALL: usize = 20;

/// The tidy JSON of a comparison.
pub fn to_json(comparison: &Comparison) -> serde_json::Value {
    serde_json::to_value(comparison).expect("invariant: plain data")
}

/// One line for each result.
pub fn to_csv(comparison: &Comparison) -> String {
    let quote = |s: &str| {
        if s.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", s.replace('"', "\"\""))
        } else {
            s.to_owned()
        }
    };
    let mut out = String::from("arm,control,split,family,metric,value,ci_low,ci_high,n\r\n");
    for r in &comparison.results {
        let _ = write!(
            out,
            "{},{},{},{},{},{},{},{},{}\r\n",
            r.arm.name(),
            r.control.name(),
            quote(&r.split),
            quote(&r.family),
            quote(&r.metric),
            r.value,
            r.ci_low,
            r.ci_high,
            r.n
        );
    }
    out
}

impl Comparison {
    fn find(
        &self,
        arm: Arm,
        control: Control,
        split: &str,
        family: &str,
        metric: &str,
    ) -> Option<&ResultRow> {
        self.results.iter().find(|r| {
            r.arm == arm
                && r.control == control
                && r.split == split
                && r.family == family
                && r.metric == metric
        })
    }

    /// (family, split) pairs with positive adapters, in order of split within family.
    fn sections(&self) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        for r in self.results.iter().filter(|r| r.metric == "top1") {
            let pair = (r.family.clone(), r.split.clone());
            if !out.contains(&pair) {
                out.push(pair);
            }
        }
        out.sort_by_key(|(f, s)| (f != "topic", f.clone(), s != "test_value"));
        out
    }

    /// One sentence: who is ahead by disjoint intervals.
    fn reading(&self, family: &str, split: &str) -> String {
        let top = |arm: Arm| self.find(arm, Control::Own, split, family, "top1");
        let readers: Vec<&ResultRow> =
            [Arm::Dit, Arm::OraclePosttrained, Arm::OracleScratch, Arm::OraclePretrained]
                .into_iter()
                .filter_map(top)
                .collect();
        let Some(best) = readers.iter().max_by(|a, b| a.value.total_cmp(&b.value)) else {
            return "No reader was scored.".into();
        };
        let above: Vec<&str> =
            readers.iter().filter(|r| r.ci_high < best.ci_low).map(|r| r.arm.name()).collect();
        let swapped = self.find(best.arm, Control::Swapped, split, family, "top1");
        let reads = swapped.is_some_and(|s| s.ci_high < best.ci_low);
        let mut text = format!("{} has the highest top-1 among readers ({:.2})", best.arm.name(), best.value);
        if above.is_empty() {
            text.push_str(
                "; no other reader is below it by disjoint intervals, so there is no verdict between them",
            );
        } else {
            let _ = write!(text, ", above {} by disjoint intervals", above.join(" and "));
        }
        text.push_str(if reads {
            ". Its swap control is far below: it reads the diff."
        } else {
            ". Its swap control is not clearly below: nothing shows that it reads the diff."
        });
        if let Some(direct) = top(Arm::Direct)
            && direct.ci_low > best.ci_high
        {
            text.push_str(" Asking the model directly does better than any reader.");
        }
        text
    }
}

fn show(row: Option<&ResultRow>, digits: usize) -> String {
    row.map_or("–".into(), |r| {
        format!("{:.digits$} [{:.digits$}, {:.digits$}]", r.value, r.ci_low, r.ci_high)
    })
}

fn plain(row: Option<&ResultRow>, digits: usize) -> String {
    row.map_or("–".into(), |r| format!("{:.digits$}", r.value))
}

const COLUMNS: [&str; 9] = [
    "arm",
    "top-1 [95% CI]",
    "swapped",
    "random",
    "none",
    "MRR",
    "corrected",
    "exact match",
    "nats own/none/swapped",
];

fn section_rows(c: &Comparison, family: &str, split: &str) -> Vec<Vec<String>> {
    Arm::ALL
        .into_iter()
        .filter_map(|arm| {
            let at = |control, metric: &str| c.find(arm, control, split, family, metric);
            let own = if arm == Arm::Prior { Control::None } else { Control::Own };
            at(own, "top1")?;
            let nll = |control| plain(at(control, "answer_nll"), 1);
            Some(vec![
                arm.name().to_owned(),
                show(at(own, "top1"), 2),
                if arm == Arm::Prior { "–".into() } else { show(at(Control::Swapped, "top1"), 2) },
                plain(at(Control::Random, "top1"), 2),
                plain(at(Control::None, "top1"), 2),
                plain(at(own, "mrr"), 2),
                plain(at(own, "top1_prior_corrected"), 2),
                show(at(own, "exact_match"), 2),
                format!("{}/{}/{}", nll(own), nll(Control::None), nll(Control::Swapped)),
            ])
        })
        .collect()
}

fn text_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| {
            rows.iter().map(|r| r[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| -> String {
        let cells = cells.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if c == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    std::iter::once(line(header.to_vec()))
        .chain(rows.iter().map(|r| line(r.iter().map(String::as_str).collect())))
        .collect::<Vec<_>>()
        .join("\n")
}

fn split_title(split: &str) -> &str {
    match split {
        "test_value" => "held-out values",
        "test_category" => "held-out categories",
        other => other,
    }
}

fn n_of(c: &Comparison, family: &str, split: &str) -> usize {
    c.results.iter().filter(|r| r.family == family && r.split == split).map(|r| r.n).max().unwrap_or(0)
}

fn negative_rows(c: &Comparison) -> Vec<Vec<String>> {
    let families: BTreeSet<&str> =
        c.results.iter().filter(|r| r.metric == "false_positive_rate").map(|r| r.family.as_str()).collect();
    let mut rows = Vec::new();
    for family in families {
        for arm in Arm::ALL {
            let found = c
                .results
                .iter()
                .find(|r| r.metric == "false_positive_rate" && r.family == family && r.arm == arm);
            if let Some(r) = found {
                rows.push(vec![arm.name().to_owned(), family.to_owned(), show(Some(r), 2), r.n.to_string()]);
            }
        }
    }
    rows
}

fn gate_rows(c: &Comparison) -> Vec<Vec<String>> {
    let rate = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
    c.gates
        .iter()
        .map(|g| {
            let n = |s: &str| g.statuses.get(s).copied().unwrap_or(0).to_string();
            vec![
                g.family.clone(),
                g.split.clone(),
                g.n.to_string(),
                rate(Some(g.on)),
                rate(Some(g.floor)),
                rate(g.near),
                rate(g.off),
                n("learned"),
                n("weak"),
                n("failed"),
            ]
        })
        .collect()
}

const GATES: [&str; 10] = ["family", "split", "n", "on", "base", "near", "off", "learned", "weak", "failed"];

fn budget_rows(c: &Comparison) -> Vec<Vec<String>> {
    c.budgets
        .iter()
        .map(|b| {
            vec![
                b.arm.name().to_owned(),
                b.supervision_rows.to_string(),
                b.rows_seen.to_string(),
                format!("{}/{}", b.chosen_step, b.steps),
                format!("{:.0}k", b.train_tokens as f64 / 1e3),
                format!("{:.0}k", b.pretrain_tokens as f64 / 1e3),
                format!("{:.1}", (b.train_flops + b.collect_flops) / 1e12),
                format!("{:.1}", b.pretrain_flops / 1e12),
                format!("{:.2}M", b.trainable_parameters as f64 / 1e6),
                format!("{:.0}", b.seconds),
            ]
        })
        .collect()
}

const BUDGETS: [&str; 10] = [
    "arm",
    "episodes",
    "rows seen",
    "kept/steps",
    "tokens",
    "pretrain tokens",
    "TFLOP",
    "pretrain TFLOP",
    "parameters",
    "seconds",
];

/// The report as text.
pub fn to_terminal(c: &Comparison) -> String {
    let mut out = format!("Comparison {} on {}\n", c.run, c.model);
    if c.smoke {
        out.push_str("SMOKE RUN: a handful of adapters, to see that everything runs. The numbers below mean nothing.\n");
    }
    let _ = write!(
        out,
        "\nAcquisition: share of greedy replies that show the behaviour\n{}\n",
        text_table(&GATES, &gate_rows(c))
    );
    for (family, split) in c.sections() {
        let n = n_of(c, &family, &split);
        let chance = c
            .results
            .iter()
            .find(|r| r.family == family && r.split == split && r.metric == "chance")
            .map_or(String::new(), |r| format!(", chance {:.3}", r.value));
        let _ = write!(
            out,
            "\n{family}, {} (n = {n} adapters{chance}){}\n{}\n  {}\n",
            split_title(&split),
            if n < SMALL { ", few: wide intervals" } else { "" },
            text_table(&COLUMNS, &section_rows(c, &family, &split)),
            c.reading(&family, &split)
        );
    }
    let negatives = negative_rows(c);
    if !negatives.is_empty() {
        let _ = write!(
            out,
            "\nFalse positives: share of greedy answers other than \"nothing\" on diffs that carry nothing\n{}\n",
            text_table(&["arm", "diff", "rate [95% CI]", "n"], &negatives)
        );
    }
    let paired: Vec<Vec<String>> = c
        .paired
        .iter()
        .filter(|p| matches!(p.metric.as_str(), "top1" | "exact_match") && p.arm != p.minus)
        .map(|p| {
            vec![
                format!("{} - {}", p.arm.name(), p.minus.name()),
                p.family.clone(),
                p.split.clone(),
                p.metric.clone(),
                format!("{:+.2} [{:+.2}, {:+.2}]", p.value, p.ci_low, p.ci_high),
                p.n.to_string(),
            ]
        })
        .collect();
    if !paired.is_empty() {
        let _ = write!(
            out,
            "\nPaired differences on the same adapters\n{}\n",
            text_table(&["arms", "family", "split", "metric", "difference [95% CI]", "n"], &paired)
        );
    }
    let _ = write!(out, "\nBudgets\n{}\n", text_table(&BUDGETS, &budget_rows(c)));
    for note in &c.notes {
        let _ = write!(out, "\n{note}");
    }
    out
}

/// The report as one web page without scripts or outside files.
pub fn to_html(c: &Comparison) -> String {
    let table = |header: &[&str], rows: &[Vec<String>]| -> String {
        let cells = |cells: &mut dyn Iterator<Item = &str>, tag: &str| {
            let cells: Vec<String> = cells.map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect();
            format!("<tr>{}</tr>", cells.concat())
        };
        let head = cells(&mut header.iter().copied(), "th");
        let body: Vec<String> = rows.iter().map(|r| cells(&mut r.iter().map(String::as_str), "td")).collect();
        format!(
            "<div class=\"scroll\"><table><thead>{head}</thead><tbody>{}</tbody></table></div>",
            body.concat()
        )
    };
    let mut body = String::new();
    if c.smoke {
        body.push_str("<p class=\"warning\">Smoke run: a handful of adapters, to see that everything runs. The numbers below mean nothing.</p>");
    }
    for (family, split) in c.sections() {
        let mut dots = Vec::new();
        for arm in Arm::ALL {
            for (control, class) in [
                (Control::Own, "own"),
                (Control::Swapped, "swapped"),
                (Control::Random, "random"),
                (Control::None, "none"),
            ] {
                if let Some(r) = c.find(arm, control, &split, &family, "top1") {
                    let label = if control == Control::Own {
                        arm.name().to_owned()
                    } else {
                        format!("{} · {}", arm.name(), control.name())
                    };
                    dots.push(Dot {
                        label,
                        class,
                        value: r.value,
                        low: r.ci_low,
                        high: r.ci_high,
                        text: show(Some(r), 2),
                    });
                }
            }
        }
        let chance = c
            .results
            .iter()
            .find(|r| r.family == family && r.split == split && r.metric == "chance")
            .map(|r| r.value);
        let _ = write!(
            body,
            "<h2>{}, {} <small>n = {} adapters</small></h2><p>{}</p>{}{}",
            escape(&family),
            split_title(&split),
            n_of(c, &family, &split),
            escape(&c.reading(&family, &split)),
            intervals(&dots, chance),
            table(&COLUMNS, &section_rows(c, &family, &split))
        );
    }
    let _ = write!(
        body,
        "<h2>False positives</h2>{}",
        table(&["arm", "diff", "rate [95% CI]", "n"], &negative_rows(c))
    );
    let _ = write!(body, "<h2>Acquisition</h2>{}", table(&GATES, &gate_rows(c)));
    let _ = write!(body, "<h2>Budgets</h2>{}", table(&BUDGETS, &budget_rows(c)));
    let series = |y: fn(&lm::FitPoint) -> f64| -> Vec<Line> {
        c.trajectories
            .iter()
            .map(|t| Line {
                name: t.arm.name().into(),
                points: t.points.iter().map(|p| (p.step as f64, y(p))).collect(),
            })
            .collect()
    };
    if !c.trajectories.is_empty() {
        let _ = write!(
            body,
            "<h2>Validation while training</h2>{}{}",
            lines(&series(|p| p.validation.top1), "step", "top-1"),
            lines(&series(|p| p.validation.loss), "step", "answer loss (nats)")
        );
    }
    for note in &c.notes {
        let _ = write!(body, "<p>{}</p>", escape(note));
    }
    let _ = write!(
        body,
        "<p class=\"meta\">{} · {} · {}</p>",
        escape(&c.run),
        escape(&c.model),
        escape(&c.created_at)
    );
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>lorafab: {}</title><style>{STYLE}</style></head><body><h1>Which reader reads what</h1>{body}</body></html>",
        escape(&c.run)
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--fg:#1d2129;--bg:#fff;--soft:#8a919e;--line:#e3e6ea;--own:#0b5fad;--swapped:#c4561e;--random:#8a919e;--none:#b9bfc9}\
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--bg:#15181d;--line:#2b3038;--own:#6bb1f5;--swapped:#f09a5b;--none:#565d69}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--fg);background:var(--bg)}\
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.4rem}small,.meta{color:var(--soft);font-weight:normal}\
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}.warning{padding:.7rem 1rem;border-left:4px solid var(--swapped);font-weight:600}\
.chart{width:100%;max-width:760px;font-size:12px;fill:var(--fg)}.grid{stroke:var(--line)}.chance{stroke:var(--soft);stroke-dasharray:3 3}.axis{fill:var(--soft)}\
.bar{stroke-width:2}.own{stroke:var(--own);fill:var(--own)}.swapped{stroke:var(--swapped);fill:var(--swapped)}.random{stroke:var(--random);fill:var(--random)}.none{stroke:var(--none);fill:var(--none)}\
.value{fill:var(--soft)}.line{fill:none;stroke-width:2}.s0{stroke:#0b5fad;fill:#0b5fad}.s1{stroke:#c4561e;fill:#c4561e}.s2{stroke:#2e8b57;fill:#2e8b57}.s3{stroke:#8e4fb3;fill:#8e4fb3}\
.line.s0,.line.s1,.line.s2,.line.s3{fill:none}.name{stroke:none}";
