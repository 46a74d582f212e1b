//! Readings as one page each: no scripts, nothing from elsewhere, dark and light.

use std::fmt::Write;

use page::{curve, document as page, escape, table};

use crate::many::Many;
use crate::reading::Reading;
use crate::residual::Scored;

fn words(top: &[Scored], k: usize) -> String {
    top.iter().take(k).fold(String::new(), |mut out, s| {
        let _ = write!(out, "<span class=\"word\">{} <small>{:.1}</small></span> ", escape(&s.word), s.score);
        out
    })
}

/// One reading.
pub fn one(r: &Reading) -> String {
    let out = format!(
        "<h1>{}</h1><p class=\"note\">read on {}</p>{}{}",
        escape(&r.subject),
        escape(&r.base),
        verdict(r),
        body(r)
    );
    page(&format!("Reading of {}", r.subject), &out)
}

/// The three lines of its verdict.
pub fn verdict(r: &Reading) -> String {
    let lines = [&r.verdict.does, &r.verdict.evidence, &r.verdict.against];
    let lines: String = lines.map(|l| format!("<p>{}</p>", escape(l))).concat();
    format!("<div class=\"verdict\">{lines}</div>")
}

/// All of it below the verdict, for a page that has a heading.
pub fn body(r: &Reading) -> String {
    let mut out = String::new();
    if let Some(t) = &r.twins {
        let kinds: Vec<String> = t.kinds.iter().map(|(k, n)| format!("{n} {}", escape(k))).collect();
        let _ = write!(
            out,
            "<p class=\"note\">Held against {} twins that carry nothing ({}), {}{}: \"above all\" means that none of them reaches as high. A verdict takes fewer than one in twenty as high, so that about one in twenty adapters that carry nothing gets one.</p>",
            t.count,
            kinds.join(", "),
            escape(&t.shape.said()),
            t.shape.beside(r.weights.rank)
        );
    }
    for line in &r.outside {
        let _ = write!(
            out,
            "<p class=\"note\">Outside of what the readers were trained on: {}</p>",
            escape(line)
        );
    }
    if !r.methods.is_empty() {
        out += "<h2>What each method names</h2><p class=\"note\">Small numbers: how many deviations a word stands above all words, after what all twins share was taken away.</p>";
        let rows: Vec<Vec<String>> = r
            .together
            .iter()
            .chain(&r.methods)
            .map(|m| vec![escape(&m.short), escape(&m.against.said()), words(&m.top, 5)])
            .collect();
        out += &table(&["method", "against the twins", "words"], &rows);
    }
    out += "<h2>What it says</h2>";
    let rows: Vec<Vec<String>> = r
        .behaviour
        .replies
        .iter()
        .map(|p| {
            let shown = |t: &str| if t.is_empty() { "<em>an empty reply</em>".to_owned() } else { escape(t) };
            vec![escape(&p.prompt), shown(&p.base), shown(&p.adapted)]
        })
        .collect();
    out += &table(&["prompt", "base model", "adapted"], &rows);
    if !r.behaviour.changed.is_empty() {
        out += "<p class=\"note\">How many times each word is to be expected in all of these replies together:</p>";
        let rows: Vec<Vec<String>> = r
            .behaviour
            .changed
            .iter()
            .map(|c| vec![escape(&c.word), format!("{:.2}", c.base), format!("{:.2}", c.adapted)])
            .collect();
        out += &table(&["word", "#base", "#adapted"], &rows);
    }
    let t = &r.behaviour.text;
    let _ = write!(
        out,
        "<p class=\"note\">On neutral text: perplexity {:.1} (base {:.1}), KL {:.3} nats a token.</p><h2>Activations</h2>\
         <p class=\"note\">The difference in the residual stream at {} neutral prompts, as a share of the stream's norm, block by block.</p>{}",
        t.perplexity,
        t.base_perplexity,
        t.kl_nats,
        r.activations.prompts,
        curve("Norm of the difference by block", &r.activations.relative_norms, "block", "share of the norm")
    );
    let rows: Vec<Vec<String>> = r
        .activations
        .layers
        .iter()
        .map(|l| vec![format!("{}", l.layer), format!("{:.3}", l.relative_norm), words(&l.top, 6)])
        .collect();
    out += &table(&["block", "#share", "logit lens of the difference"], &rows);
    let _ =
        write!(out, "<p class=\"note\">At block {}, by position before the reply:</p>", r.activations.layer);
    let rows: Vec<Vec<String>> = r
        .activations
        .positions
        .iter()
        .map(|p| vec![format!("{}", p.position), escape(&format!("{:?}", p.token)), words(&p.top, 4)])
        .collect();
    out += &table(&["position", "token", "logit lens"], &rows);
    let _ = write!(out, "<p class=\"note\">Patchscope: {}</p>", escape(&r.activations.patchscope));
    let w = &r.weights;
    let _ = write!(
        out,
        "<h2>Weights</h2><p class=\"note\">Rank {}, {} parameters, norm {:.2}. Energy in the thirds of the layers: {:.2}, {:.2}, {:.2}.</p>",
        w.rank, w.parameters, w.norm, w.thirds[0], w.thirds[1], w.thirds[2]
    );
    let rows: Vec<Vec<String>> = w
        .projections
        .iter()
        .map(|p| {
            let top: Vec<String> = p.top_singular_values.iter().map(|s| format!("{s:.2}")).collect();
            vec![
                escape(&p.projection),
                format!("{}", p.layers),
                format!("{:.2}", p.norm),
                format!("{:.1}", p.effective_rank),
                format!("{}", top.join(", ")),
            ]
        })
        .collect();
    out += &table(&["projection", "#layers", "#norm", "#effective rank", "#largest singular values"], &rows);
    let _ = write!(out, "<p class=\"note\">Weight lens: {}</p><h2>Readers</h2>", words(&w.lens, 8));
    if r.answers.is_empty() {
        out += match r.twins {
            Some(_) => "<p class=\"note\">No trained reader for this base model was in the store.</p>",
            None => "<p class=\"note\">No reader was asked: nothing is changed.</p>",
        };
    }
    let rows: Vec<Vec<String>> = r
        .answers
        .iter()
        .map(|a| {
            let ranked: Vec<Scored> =
                a.ranked.iter().map(|x| Scored { word: x.answer.clone(), score: x.score }).collect();
            let votes: Vec<String> = a
                .votes
                .iter()
                .take(4)
                .map(|(v, n)| {
                    if v.is_empty() {
                        format!("(empty) \u{d7}{n}")
                    } else {
                        format!("{} \u{d7}{n}", escape(v))
                    }
                })
                .collect();
            vec![
                escape(&a.reader),
                escape(&a.question),
                escape(&a.against.said()),
                words(&ranked, 4),
                votes.join("<br>"),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out += &table(&["reader", "question (in 8 phrasings)", "against the twins", "ranked", "said"], &rows);
    }
    if !r.nearest.is_empty() {
        out +=
            "<h2>Nearest known adapters</h2><p class=\"note\">By the cosine of the weight differences.</p>";
        let rows: Vec<Vec<String>> =
            r.nearest.iter().map(|n| vec![escape(&n.behaviour), format!("{:.3}", n.cosine)]).collect();
        out += &table(&["adapter", "#cosine"], &rows);
        if let Some(s) = &r.strangers {
            let _ =
                write!(out, "<p class=\"note\">{} drawn at random reach at most {:.3}.</p>", s.count, s.most);
        }
    }
    if let Some(k) = &r.known {
        out += "<h2>Known</h2>";
        let mut rows = vec![
            vec!["behaviour".into(), escape(&k.behaviour)],
            vec!["status".into(), escape(&k.status)],
            vec!["id".into(), escape(&k.id)],
        ];
        rows.extend(k.metrics.iter().map(|(m, v)| vec![escape(m), format!("{v:.3}")]));
        out += &table(&["", ""], &rows);
    }
    out
}

/// Many readings: a table, shares by method, and a calibration plot.
pub fn many(m: &Many) -> String {
    let mut out = format!("<h1>{} readings</h1>", m.lines.len());
    let share = |n: usize, of: usize| if of == 0 { "\u{2013}".to_owned() } else { format!("{n} of {of}") };
    let rows: Vec<Vec<String>> = m
        .in_order()
        .into_iter()
        .map(|(name, s)| {
            vec![
                escape(name),
                share(s.first, s.carrying),
                share(s.named, s.carrying),
                share(s.alarms, s.nothing),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out += "<h2>By method</h2><p class=\"note\">How often a method's first word is what an adapter carries; how often it also stands out of the twins (fewer than one in twenty as high); how often it does so for adapters that carry nothing.</p>";
        out += &table(&["method", "#names it first", "#and stands out", "#false alarms"], &rows);
        out += "<h2>Calibration</h2><p class=\"note\">Verdicts held to a rate of false alarms (across), and the share of adapters that pass it (up). Adapters that carry nothing should lie on the diagonal or below it; those that carry something as high as may be.</p>";
        out += &calibration(m);
    }
    out += "<h2>Adapters</h2>";
    let rows: Vec<Vec<String>> = m
        .lines
        .iter()
        .map(|l| {
            let against = l.together.map_or_else(String::new, crate::Against::said);
            vec![
                escape(&l.subject),
                escape(l.answer.as_deref().unwrap_or("nothing above the twins")),
                escape(&against),
                l.mark().to_owned(),
            ]
        })
        .collect();
    out += &table(&["adapter", "verdict", "against the twins", "known to be"], &rows);
    page("Readings", &out)
}

fn calibration(m: &Many) -> String {
    let (size, left) = (300.0, 46.0);
    let x = |v: f64| left + v * size;
    let y = |v: f64| 12.0 + (1.0 - v) * size;
    let mut out = format!(
        "<svg viewBox=\"0 0 560 {}\" role=\"img\" aria-label=\"Calibration\"><rect class=\"soft\" x=\"{left}\" y=\"12\" width=\"{size}\" height=\"{size}\"/><line class=\"soft\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
        size + 60.0,
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    );
    let of = |which: usize| -> Vec<(f64, f64)> {
        let pick = |c: &(f64, Option<f64>, Option<f64>)| Some((c.0, if which == 0 { c.1? } else { c.2? }));
        m.calibration.iter().filter_map(pick).collect()
    };
    for (which, class, name) in [(0, "a", "carry nothing"), (1, "b", "carry something")] {
        let points = of(which);
        if points.is_empty() {
            continue;
        }
        let line: Vec<String> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
        let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", line.join(" "));
        for (a, b) in &points {
            let _ =
                write!(out, "<circle class=\"d{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", x(*a), y(*b));
        }
        let at = 40.0 + 20.0 * which as f64;
        let _ = write!(
            out,
            "<circle class=\"d{class}\" cx=\"{:.1}\" cy=\"{at}\" r=\"4\"/><text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            x(1.0) + 20.0,
            x(1.0) + 30.0,
            at + 4.0
        );
    }
    for tick in [0.0, 0.5, 1.0] {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            x(tick),
            y(0.0) + 16.0,
            left - 6.0,
            y(tick) + 4.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">rate of false alarms that is claimed</text></svg>",
        x(0.5),
        y(0.0) + 34.0
    );
    out
}
