//! A reading for a terminal of 80 columns.

use std::fmt::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::reading::Reading;
use crate::residual::Scored;

/// Columns of a terminal.
const WIDE: usize = 80;

/// A text in lines of at most [`WIDE`] columns, the later ones indented.
pub(crate) fn wrapped(text: &str, first: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    // What a terminal would act on is shown as an escape, whose width counts.
    for word in fence::shown(text).split_whitespace() {
        let word = cut(word, WIDE - indent);
        if !empty && columns(&line) + 1 + columns(&word) > WIDE {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(&word);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
    out
}

/// Columns of a text: letters of some scripts take two.
fn columns(text: &str) -> usize {
    text.width()
}

fn cut(text: &str, most: usize) -> String {
    let text = fence::shown(text);
    if columns(&text) <= most {
        return text.into_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if columns(&out) + c.width().unwrap_or(0) > most.saturating_sub(3) {
            break;
        }
        out.push(c);
    }
    out + "..."
}

fn one_line(text: &str, most: usize) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), most)
}

fn words(top: &[Scored], k: usize) -> String {
    top.iter().take(k).map(|s| format!("{} {:.1}", s.word, s.score)).collect::<Vec<_>>().join("  ")
}

/// The whole reading.
pub fn to_terminal(r: &Reading) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} on {}\n", cut(&r.subject, 48), cut(&r.base, 28));
    out += &wrapped(&r.verdict.does, "verdict   ", 10);
    out += &wrapped(&r.verdict.evidence, "evidence  ", 10);
    out += &wrapped(&r.verdict.against, "against   ", 10);
    if let Some(t) = &r.twins {
        let kinds: Vec<String> = t.kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
        out += &wrapped(
            &format!(
                "{} adapters that carry nothing ({}), {}{}. A verdict takes fewer than one in twenty as high, so that about one in twenty adapters that carry nothing gets one",
                t.count,
                kinds.join(", "),
                t.shape.said(),
                t.shape.beside(r.weights.rank)
            ),
            "twins     ",
            10,
        );
    }
    if !r.methods.is_empty() {
        out += "\nWhat each method names: twins as high, and words, in deviations above all words\n";
        let width = r.methods.iter().map(|m| m.short.chars().count()).max().unwrap_or(0).clamp(12, 32);
        for m in r.together.iter().chain(&r.methods) {
            let name = cut(&m.short, width);
            let head = format!("  {name:width$}  {:>2} of {}  ", m.against.as_high, m.against.twins);
            out += &wrapped(
                &one_line(&words(&m.top, 3), WIDE - head.chars().count()),
                &head,
                head.chars().count(),
            );
        }
    }
    out += "\nWhat it says, beside the base model\n";
    for pair in &r.behaviour.replies {
        let _ = writeln!(out, "  {}", one_line(&pair.prompt, WIDE - 2));
        let empty =
            |t: &str| if t.is_empty() { "(an empty reply)".to_owned() } else { one_line(t, WIDE - 12) };
        let _ = writeln!(out, "    base    {}", empty(&pair.base));
        let _ = writeln!(out, "    adapted {}", empty(&pair.adapted));
    }
    if !r.behaviour.changed.is_empty() {
        let list: Vec<String> = r
            .behaviour
            .changed
            .iter()
            .map(|c| format!("{} {:.1} (base {:.1})", c.word, c.adapted, c.base))
            .collect();
        out += &wrapped(&list.join(", "), "  times to be expected in these replies: ", 4);
    }
    let t = &r.behaviour.text;
    let _ = writeln!(
        out,
        "  neutral text: perplexity {:.1} (base {:.1}), KL {:.3} nats a token",
        t.perplexity, t.base_perplexity, t.kl_nats
    );
    let a = &r.activations;
    let _ = writeln!(
        out,
        "\nActivations: difference at {} neutral prompts, its share of the stream's norm,\nand what the logit lens shows of it, in deviations",
        a.prompts
    );
    for l in &a.layers {
        let _ = writeln!(
            out,
            "  block {:3}  {:5.3}  {}",
            l.layer,
            l.relative_norm,
            one_line(&words(&l.top, 5), WIDE - 20)
        );
    }
    let _ = writeln!(out, "  at block {}, by position before the reply", a.layer);
    for p in &a.positions {
        let token = one_line(&format!("{:?}", p.token), 16);
        let _ = writeln!(out, "  {:4}  {token:16}  {}", p.position, one_line(&words(&p.top, 4), WIDE - 26));
    }
    let line =
        if a.patchscope.is_empty() { "(nothing)".to_owned() } else { one_line(&a.patchscope, WIDE - 15) };
    let _ = writeln!(out, "  Patchscope: {line}");
    let w = &r.weights;
    out += "\n";
    out += &wrapped(
        &format!(
            "rank {}, {} parameters, norm {:.2}; energy by thirds of the layers {:.2} {:.2} {:.2}",
            w.rank, w.parameters, w.norm, w.thirds[0], w.thirds[1], w.thirds[2]
        ),
        "Weights: ",
        2,
    );
    let _ = writeln!(out, "  projection  layers    norm  effective rank  largest singular values");
    for p in &w.projections {
        let top: Vec<String> = p.top_singular_values.iter().map(|s| format!("{s:.2}")).collect();
        let _ = writeln!(
            out,
            "  {:10}  {:6}  {:6.2}  {:14.1}  {}",
            p.projection,
            p.layers,
            p.norm,
            p.effective_rank,
            top.join(" ")
        );
    }
    if !w.lens.is_empty() {
        out += &wrapped(&words(&w.lens, 6), "  weight lens: ", 4);
    }
    if r.answers.is_empty() {
        out += match r.twins {
            Some(_) => "\nNo trained reader for this base model is in the store\n",
            None => "\nNo reader was asked: nothing is changed\n",
        };
    } else {
        out += "\nReaders\n";
        for answer in &r.answers {
            out += &wrapped(
                &format!(
                    "{:?} in {} phrasings: {}",
                    answer.question,
                    answer.phrasings,
                    answer.against.said()
                ),
                &format!("  {} ", answer.reader),
                4,
            );
            let ranked: Vec<String> = answer
                .ranked
                .iter()
                .take(4)
                .map(|a| format!("{} {:.1} (log p {:.1})", a.answer, a.score, a.mean_log_prob))
                .collect();
            out += &wrapped(&ranked.join(", "), "    ranked: ", 6);
            let votes: Vec<String> = answer
                .votes
                .iter()
                .take(4)
                .map(|(v, n)| if v.is_empty() { format!("(empty) x{n}") } else { format!("{v:?} x{n}") })
                .collect();
            out += &wrapped(&votes.join(", "), "    said:   ", 6);
        }
    }
    for (name, why) in &r.left_out {
        out += &wrapped(&format!("{name} was not asked: {why}"), "  ", 4);
    }
    if !r.nearest.is_empty() {
        out += "\nNearest known adapters, by the cosine of the weight differences\n";
        for n in &r.nearest {
            let _ = writeln!(out, "  {:6.3}  {}", n.cosine, cut(&n.behaviour, WIDE - 10));
        }
        if let Some(s) = &r.strangers {
            let _ = writeln!(out, "  {:6.3}  the most that {} drawn at random reach", s.most, s.count);
        }
    }
    if let Some(k) = &r.known {
        let rate = |key: &str| k.metrics.get(key).map(|v| format!("{key} {v:.2}"));
        let gate: Vec<String> =
            ["gate_on", "gate_floor", "gate_near", "gate_off"].iter().filter_map(|g| rate(g)).collect();
        out += "\nKnown\n";
        out += &wrapped(
            &format!(
                "{} ({}), {}{}",
                k.behaviour,
                registry::commit::short(&k.id),
                k.status,
                if gate.is_empty() { String::new() } else { format!(": {}", gate.join(", ")) }
            ),
            "  ",
            4,
        );
    }
    out
}
