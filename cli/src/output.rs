//! Answers on stdout.

use std::borrow::Cow;
use std::path::Path;

use fence::{shown, shown_lines};
pub(crate) use serve::facts::count;

use crate::error::Result;

/// Columns of the terminal that stdout is; nothing where it is none, and there all is printed at its full width.
pub(crate) fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width.0)).filter(|w| *w > 0)
}

/// Prints text for people: what acts on a terminal is shown as an escape, whoever wrote it, and no line is wider than the terminal.
pub(crate) fn print(text: &str) -> Result {
    let text = shown_lines(text);
    match width() {
        Some(width) => print_as_it_is(&folded(&text, width)),
        None => print_as_it_is(&text),
    }
}

/// Lines no longer than that, broken at spaces where there are some; what goes on is indented as its line is, and two more.
pub(crate) fn folded(text: &str, width: usize) -> String {
    let mut out = Vec::new();
    for line in text.lines() {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let indent = if indent + 2 < width / 2 { indent + 2 } else { 0 };
        let mut rest: Vec<char> = line.chars().collect();
        while rest.len() > width {
            // Not within the indentation.
            let at = (indent + 1..=width).rev().find(|i| rest[*i] == ' ').unwrap_or(width);
            let after: Vec<char> = rest[at..].iter().copied().skip_while(|c| *c == ' ').collect();
            out.push(rest[..at].iter().collect::<String>().trim_end().to_owned());
            rest = std::iter::repeat_n(' ', indent).chain(after).collect();
        }
        out.push(rest.into_iter().collect());
    }
    out.join("\n")
}

/// Writes an answer to the file that was asked for, else prints it as it is.
pub(crate) fn deliver(file: Option<&Path>, text: &str) -> Result {
    match file {
        Some(path) => write_out(path, format!("{}\n", text.trim_end_matches('\n')).as_bytes()),
        None => print_as_it_is(text),
    }
}

/// Writes a file that somebody named: whole or not at all, and through a link into what it points to. A device or a pipe is written to, never
/// replaced.
///
/// # Errors
/// If it is a folder or cannot be written.
pub(crate) fn write_out(path: &Path, bytes: &[u8]) -> Result {
    use std::io::Write;
    let there = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|e| wrong(path, &e.to_string()))?),
    };
    match there {
        Some(m) if m.is_dir() => Err(wrong(path, "is a folder; name a file")),
        Some(m) if !m.is_file() => {
            let mut file = fs_err::OpenOptions::new().write(true).open(path)?;
            Ok(file.write_all(bytes)?)
        }
        Some(_) => Ok(registry::write_atomic(&fs_err::canonicalize(path)?, bytes)?),
        None => Ok(registry::write_atomic(path, bytes)?),
    }
}

fn wrong(path: &Path, what: &str) -> crate::error::CommandError {
    crate::error::CommandError::new(crate::error::Kind::Usage, format!("{}: {what}", path.display()))
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

/// A cell at most that wide.
fn cut(cell: &str, widest: usize) -> Cow<'_, str> {
    match cell.char_indices().nth(widest) {
        None => cell.into(),
        Some(_) if widest < 2 => cell.chars().take(widest).collect::<String>().into(),
        Some(_) => format!("{}…", cell.chars().take(widest - 1).collect::<String>()).into(),
    }
}

/// A table without boxes, no wider than the terminal; columns whose header starts with `>` are right-aligned.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    table_within(header, rows, width())
}

/// Widest cell where nothing limits a table: every other one is filled up to it.
const WIDEST: usize = 200;
/// What a cell is not cut below.
const NARROWEST: usize = 6;

pub(crate) fn table_within(header: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    // A cell is one line, whatever was written into it.
    let head: Vec<Cow<'_, str>> = header.iter().map(|h| h.trim_start_matches('>').into()).collect();
    let rows: Vec<Vec<Cow<'_, str>>> =
        std::iter::once(head).chain(rows.iter().map(|row| row.iter().map(|c| shown(c)).collect())).collect();
    let mut widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0).min(WIDEST))
        .collect();
    if let Some(width) = width {
        // The widest column gives way first. Numbers are never cut.
        while widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) > width {
            let widest =
                (0..widths.len()).filter(|c| !header[*c].starts_with('>')).max_by_key(|c| widths[*c]);
            match widest {
                Some(c) if widths[c] > NARROWEST => widths[c] -= 1,
                _ => break,
            }
        }
    }
    let line = |cells: &Vec<Cow<'_, str>>| {
        let cells = cells.iter().enumerate().map(|(c, cell)| {
            let cell = cut(cell, widths[c]);
            let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
            if header[c].starts_with('>') { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Rows as comma-separated values (RFC 4180).
pub(crate) fn csv<'a>(rows: impl Iterator<Item = Vec<Cow<'a, str>>>) -> String {
    let cell = |c: &Cow<'_, str>| {
        let c = shown(c);
        if c.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", c.replace('"', "\"\""))
        } else {
            c.into_owned()
        }
    };
    rows.map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_written_through_and_a_device_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_out(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::read(fifo).unwrap()
        });
        write_out(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!std::fs::symlink_metadata(&fifo).unwrap().is_file());
        assert!(write_out(folder.path(), b"x").unwrap_err().message.contains("is a folder"));
    }

    #[test]
    fn tables_and_lines_are_no_wider_than_the_terminal() {
        let rows =
            [vec!["a word that goes on and on".repeat(4), "1234567890".to_owned(), "brown".to_owned()]];
        let full = table_within(&["text", ">number", "colour"], &rows, None);
        assert!(full.lines().any(|l| l.chars().count() > 100), "{full}");
        let narrow = table_within(&["text", ">number", "colour"], &rows, Some(40));
        assert!(narrow.lines().all(|l| l.chars().count() <= 40), "{narrow}");
        assert!(
            narrow.contains("…") && narrow.contains("1234567890") && narrow.contains("brown"),
            "{narrow}"
        );
        let text = format!("  {}\nshort", "seven words of text that are long ".repeat(3));
        let lines = folded(&text, 30);
        assert!(lines.lines().all(|l| l.chars().count() <= 30), "{lines}");
        assert_eq!(lines.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        assert!(folded(&"x".repeat(95), 30).lines().all(|l| l.len() <= 30));
    }

    #[test]
    fn comma_separated_values_are_quoted_where_they_must_be() {
        let rows = [vec!["a,b".into(), "say \"hi\"".into(), "plain".into()]];
        assert_eq!(csv(rows.into_iter()), "\"a,b\",\"say \"\"hi\"\"\",plain");
    }
}
