//! docs/ is a book that mdBook makes, and every link in it leads somewhere.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use mdbook_driver::MDBook;
use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where `mdbook build docs` puts the book, from the root: as deep as its sources, so that links out of it lead to the same files.
const BOOK: &str = "target/book";

/// A path without its `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut out, part| {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
        out
    })
}

/// A page's links that lead nowhere. `is_there` answers for a path from the root, `names` for a place in one.
fn broken(
    page: &Path,
    links: &[String],
    is_there: &dyn Fn(&Path) -> bool,
    has_place: &dyn Fn(&Path, &str) -> bool,
) -> Vec<String> {
    let mut out = Vec::new();
    for link in
        links.iter().filter(|l| !l.contains("://") && !l.starts_with("mailto:") && !l.starts_with("data:"))
    {
        let (file, place) = link.split_once('#').unwrap_or((link, ""));
        // So a link out of the book is written, which mdBook would else turn into one to a page.
        let file = &file.replace("%2E", ".");
        let target =
            if file.is_empty() { page.to_owned() } else { plain(&page.parent().unwrap().join(file)) };
        if !is_there(&target) {
            out.push(format!("{}: {link}: there is no {}", page.display(), target.display()));
        } else if !place.is_empty() && !has_place(&target, place) {
            out.push(format!("{}: {link}: there is no such place", page.display()));
        }
    }
    out
}

#[test]
fn the_book_is_made_and_its_links_lead_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut book = MDBook::load(root().join("docs")).unwrap();
    book.config.build.build_dir = folder.path().to_owned();
    book.build().unwrap();
    let (link, place) =
        (Regex::new(r#"(?:href|src)="([^"]*)""#).unwrap(), Regex::new(r#"id="([^"]*)""#).unwrap());
    let all = |of: &Regex, text: &str| {
        of.captures_iter(text).map(|c| c[1].replace("&amp;", "&")).collect::<Vec<_>>()
    };
    let pages: BTreeMap<PathBuf, String> = walk(folder.path())
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "html"))
        .map(|p| {
            (
                Path::new(BOOK).join(p.strip_prefix(folder.path()).unwrap()),
                std::fs::read_to_string(&p).unwrap(),
            )
        })
        .collect();
    assert!(pages.len() > 20, "{} pages", pages.len());
    let is_there = |path: &Path| match path.strip_prefix(BOOK) {
        Ok(inside) => folder.path().join(inside).exists(),
        Err(_) => !path.starts_with("target") && root().join(path).exists(),
    };
    let has_place = |path: &Path, name: &str| {
        pages.get(path).is_none_or(|text| all(&place, text).iter().any(|id| id == name))
    };
    let mut links = 0;
    let mut wrong = BTreeSet::new();
    for (page, text) in &pages {
        // One page prints the whole book, and one stands in for what is not found, at any depth.
        if ["print.html", "404.html"].contains(&page.file_name().unwrap().to_str().unwrap()) {
            continue;
        }
        let here = all(&link, text);
        links += here.len();
        wrong.extend(broken(page, &here, &is_there, &has_place));
    }
    assert!(links > 500, "{links} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path) }
    }
    out
}

/// A heading's place, as GitHub names it.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.collect::<String>().to_lowercase().trim().replace(' ', "-")
}

#[test]
fn links_of_every_document_lead_somewhere() {
    let root = root();
    let skipped = ["target", ".git", ".venv-ci", ".venv", "node_modules"];
    let documents: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| !skipped.contains(&p.file_name().unwrap().to_str().unwrap()))
        .flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] })
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .filter(|p| !p.components().any(|c| c.as_os_str().to_str().is_some_and(|c| c.starts_with(".venv"))))
        .collect();
    assert!(documents.len() > 25, "{documents:?}");
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    // What stands in a block of code, or between backticks, is none.
    let text = |path: &Path| {
        let mut fenced = false;
        let lines = std::fs::read_to_string(path).unwrap();
        let kept = lines.lines().filter(|l| {
            let fence = l.trim_start().starts_with("```");
            fenced ^= fence;
            !fence && !fenced && !l.starts_with("    ")
        });
        kept.collect::<Vec<_>>().join("\n")
    };
    let code = Regex::new(r"`[^`\n]*`").unwrap();
    let is_there = |path: &Path| root.join(path).exists();
    let has_place = |path: &Path, name: &str| {
        path.extension().is_none_or(|e| e != "md")
            || text(&root.join(path))
                .lines()
                .any(|l| l.starts_with('#') && slug(l.trim_start_matches('#')) == name)
    };
    let mut links = 0;
    let mut wrong = BTreeSet::new();
    for path in &documents {
        let text = text(path);
        let here: Vec<String> =
            link.captures_iter(&code.replace_all(&text, "`")).map(|c| c[1].to_owned()).collect();
        links += here.len();
        wrong.extend(broken(path.strip_prefix(&root).unwrap(), &here, &is_there, &has_place));
    }
    assert!(links > 150, "{links} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let nowhere = broken(
        Path::new("a/b.md"),
        &["../README.md#no-such".into(), "none.md".into()],
        &is_there,
        &has_place,
    );
    assert_eq!(nowhere.len(), 2, "{nowhere:?}");
}
