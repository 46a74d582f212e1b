//! Answers on stdout.

use std::borrow::Cow;

use fence::{shown, shown_lines};

use crate::error::Result;

/// Prints text for people: what acts on a terminal is shown as an escape, whoever wrote it.
pub(crate) fn print(text: &str) -> Result {
    print_as_it_is(&shown_lines(text))
}

/// Prints a part of a text for people, and no line's end after it.
pub(crate) fn print_part(text: &str) -> Result {
    use std::io::Write;
    let mut out = anstream::stdout().lock();
    match write!(out, "{}", shown_lines(text)).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints as it is; a closed pipe is not an error.
pub(crate) fn print_as_it_is(text: &str) -> Result {
    use std::io::Write;
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes text for people on stderr, as [`print`] does. A stderr that is closed or full is no reason to fail.
pub(crate) fn tell(text: &str) {
    tell_as_it_is(&shown_lines(text));
}

/// Writes a line of a format on stderr.
pub(crate) fn tell_as_it_is(text: &str) {
    use std::io::Write;
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// `1 job`, `2 jobs`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Prints one result as the value of `key` in a versioned JSON object, or as it is.
pub(crate) fn print_result(json: bool, schema: &str, key: &str, value: &str) -> Result {
    if json { print_json(&serde_json::json!({"schema": schema, key: value})) } else { print(value) }
}

/// Prints a JSON document.
pub(crate) fn print_json(value: &serde_json::Value) -> Result {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    // JSON has no escapes for these by itself, terminals act on them, and a stream that strips escapes loses them. They can only stand
    // within strings.
    let acts = |c: char| ('\u{7f}'..='\u{9f}').contains(&c);
    let escaped = |c: char| if acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    let plain = if text.contains(acts) { text.chars().map(escaped).collect() } else { text };
    print_as_it_is(&plain)
}

/// A cell at a width for people: every other one is filled up to it.
fn cut(cell: Cow<'_, str>) -> Cow<'_, str> {
    const WIDEST: usize = 200;
    match cell.char_indices().nth(WIDEST) {
        None => cell,
        Some((at, _)) => format!("{} ...", &cell[..at]).into(),
    }
}

/// A table without boxes; columns whose header starts with `>` are right-aligned.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    // A cell is one line, whatever was written into it.
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| cut(shown(cell))).collect()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|c| {
            rows.iter()
                .map(|r| r[c].chars().count())
                .chain([header[c].trim_start_matches('>').len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &[Cow<'_, str>]| {
        let cells = cells.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
            if header[c].starts_with('>') { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head: Vec<Cow<'_, str>> = header.iter().map(|h| h.trim_start_matches('>').into()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|r| line(r))).collect::<Vec<_>>().join("\n")
}
