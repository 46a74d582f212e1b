//! How much memory this process may still take: the least of what the machine has free and what its control groups leave it.
//!
//! Both versions of Linux's control groups are read, the group itself and all above it (Documentation/admin-guide/cgroup-v1/memory.rst,
//! cgroup-v2.rst; proc(5) for `mountinfo`). Pages of files that were read count as a group's use until others need the room; the
//! inactive ones are taken as free.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use lm::{Outline, Precision};

use crate::error::{CommandError, Kind, Result};

/// An amount of memory as somebody gave it: a number and a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) text: String,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const UNITS: [(&str, u64); 9] = [
            ("", 1),
            ("K", 1000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("T", 1_000_000_000_000),
            ("KI", 1 << 10),
            ("MI", 1 << 20),
            ("GI", 1 << 30),
            ("TI", 1 << 40),
        ];
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_uppercase();
        let unit = unit.strip_suffix('B').unwrap_or(&unit);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let bytes = number.parse::<f64>().ok().zip(factor).map(|(n, factor)| n * factor as f64);
        match bytes.filter(|b| (1.0..1e18).contains(b)) {
            Some(bytes) => Ok(Self { bytes: bytes as u64, text: trimmed.to_owned() }),
            None => Err("give a number with a unit, e.g. 8GB, 512MiB".into()),
        }
    }
}

/// Memory that can be had, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Available {
    pub(crate) bytes: u64,
    pub(crate) by: By,
}

/// Where a figure comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    /// `--memory` or its variable.
    Setting,
    /// `/proc/meminfo`.
    Machine,
    /// A control group's limit.
    Group(PathBuf),
}

impl By {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Setting => "as --memory says".into(),
            Self::Machine => "by /proc/meminfo".into(),
            Self::Group(place) => format!("by the limit of the control group {}", place.display()),
        }
    }
}

/// What this process can have; none where the system does not say.
pub(crate) fn available(setting: Option<&Size>) -> Option<Available> {
    setting.map(|size| Available { bytes: size.bytes, by: By::Setting }).or_else(|| of_system(Path::new("/")))
}

/// The same of the system whose `proc` and `sys` lie in a folder.
fn of_system(root: &Path) -> Option<Available> {
    let read = |place: &str| std::fs::read_to_string(root.join(place)).ok();
    let machine = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(Available { bytes: kib.saturating_mul(1024), by: By::Machine })
    });
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let groups = groups.zip(mounts).map_or_else(Vec::new, |(groups, mounts)| folders(&groups, &mounts));
    let limited = groups.into_iter().filter_map(|(version, place)| {
        let left = version.left(&root.join(place.strip_prefix("/").unwrap_or(&place)))?;
        Some(Available { bytes: left, by: By::Group(place) })
    });
    machine.into_iter().chain(limited).min_by_key(|a| a.bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// What the group in this folder may still take; none if it has no limit.
    fn left(self, folder: &Path) -> Option<u64> {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let (limit, used, inactive) = match self {
            // Above `memory.high` a group is slowed down until it stands.
            Self::V2 => {
                let limit = ["memory.max", "memory.high"].into_iter().filter_map(number).min()?;
                (limit, number("memory.current")?, "inactive_file")
            }
            Self::V1 => {
                let limit = number("memory.limit_in_bytes")?;
                (limit, number("memory.usage_in_bytes")?, "total_inactive_file")
            }
        };
        // Version 1 writes no limit as the largest number of whole pages.
        if limit >= 1 << 62 {
            return None;
        }
        let stat = text("memory.stat").unwrap_or_default();
        let pages: u64 =
            stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(pages)))
    }
}

/// The folders of this process's memory groups and of all above them.
fn folders(groups: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
    let mut out = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let version = match controllers {
            "" => Version::V2,
            list if list.split(',').any(|c| c == "memory") => Version::V1,
            _ => continue,
        };
        let Some((top, place)) = mounts.lines().find_map(|line| mounted(line, version)) else { continue };
        // In a container the mount shows the container's own group as its root, and the name may be the host's.
        let below = Path::new(group).strip_prefix(top).ok();
        let below = below.filter(|b| !b.starts_with("..")).unwrap_or(Path::new(""));
        let own = Path::new(place).join(below);
        out.extend(own.ancestors().take_while(|a| a.starts_with(place)).map(|a| (version, a.to_owned())));
    }
    out
}

/// Root and place of a line of `mountinfo`, if it mounts the memory groups of that version.
fn mounted(line: &str, version: Version) -> Option<(&str, &str)> {
    let (place, kind) = line.split_once(" - ")?;
    let place: Vec<&str> = place.split(' ').collect();
    let kind: Vec<&str> = kind.split(' ').collect();
    let right = match version {
        Version::V2 => *kind.first()? == "cgroup2",
        Version::V1 => *kind.first()? == "cgroup" && kind.last()?.split(',').any(|o| o == "memory"),
    };
    right.then_some((*place.get(3)?, *place.get(4)?))
}

/// Bytes of a model's weights where they lie.
pub(crate) fn weights_bytes(model: &Path) -> u64 {
    let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
    if !model.is_dir() {
        return size(model);
    }
    let files = std::fs::read_dir(model).into_iter().flatten().flatten().map(|e| e.path());
    files.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).map(|p| size(&p)).sum()
}

/// No model takes so many times the size of its files: two bits a weight there, and here in f32, packed for both directions and once
/// more plain. What fits by this measure need not be looked at.
pub(crate) const MOST_TIMES: u64 = 64;

/// Bytes for people.
pub(crate) fn gb(bytes: f64) -> String {
    if bytes < 1e8 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

/// Refuses a model of which `need` is more than there is.
///
/// # Errors
/// One sentence with the figures.
pub(crate) fn check(outline: &Outline, need: fn(&Outline) -> f64, available: Option<&Available>) -> Result {
    let need = need(outline);
    let Some(free) = available.filter(|a| need > a.bytes as f64) else { return Ok(()) };
    let what = format!(
        "the model needs about {} while it loads ({} after), {} are free ({}): it was not loaded",
        gb(need),
        gb(outline.base_bytes()),
        gb(free.bytes as f64),
        free.by.text()
    );
    let half = outline.precision == Precision::F32 && Precision::Bf16.runs_here();
    let less = if half { "--precision bf16 takes less; " } else { "" };
    Err(CommandError::new(Kind::Environment, what).hint(format!(
        "{less}end what else takes memory, take a smaller model, or say what may be taken: --memory 16GB or LORAFAB_MEMORY"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let place = root.path().join(name);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, text).unwrap();
        }
        root
    }

    fn of(files: &[(&str, &str)]) -> Option<(u64, By)> {
        of_system(system(files).path()).map(|a| (a.bytes, a.by))
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       24596996 kB\nMemFree:         8101592 kB\nMemAvailable:   23068672 kB\nSwapTotal: 0 kB\n",
    );
    const MACHINE: u64 = 23_068_672 * 1024;

    #[test]
    fn without_groups_the_machine_says_what_is_free() {
        assert_eq!(of(&[MEMINFO]), Some((MACHINE, By::Machine)));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("proc/meminfo", "MemAvailable: none\n")]), None);
    }

    #[test]
    fn of_version_2_the_tightest_group_above_counts() {
        let base = [
            MEMINFO,
            ("proc/self/cgroup", "0::/user.slice/job.scope\n"),
            (
                "proc/self/mountinfo",
                "24 30 0:22 / /proc rw - proc proc rw\n35 30 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("sys/fs/cgroup/user.slice/job.scope/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/job.scope/memory.high", "max\n"),
            ("sys/fs/cgroup/user.slice/job.scope/memory.current", "1000000000\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "8000000000\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "3000000000\n"),
            (
                "sys/fs/cgroup/user.slice/memory.stat",
                "anon 1\nfile 2500000000\ninactive_file 2000000000\nactive_file 5\n",
            ),
        ];
        let slice = |bytes| Some((bytes, By::Group("/sys/fs/cgroup/user.slice".into())));
        assert_eq!(of(&base), slice(7_000_000_000));
        // A group over its limit has nothing left.
        let over = [&base[..], &[("sys/fs/cgroup/user.slice/memory.current", "99000000000\n")]].concat();
        assert_eq!(of(&over), slice(0));
        let high =
            [&base[..], &[("sys/fs/cgroup/user.slice/job.scope/memory.high", "1500000000\n")]].concat();
        let own = By::Group("/sys/fs/cgroup/user.slice/job.scope".into());
        assert_eq!(of(&high), Some((500_000_000, own)));
        // A limit above what the machine has limits nothing.
        let wide = [&base[..], &[("sys/fs/cgroup/user.slice/memory.max", "99000000000000\n")]].concat();
        assert_eq!(of(&wide), Some((MACHINE, By::Machine)));
    }

    #[test]
    fn of_version_1_no_limit_is_a_very_large_one() {
        let base = [
            MEMINFO,
            ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/slurm/job_7\n1:cpu:/\n0::/\n"),
            (
                "proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes", "2590523392\n"),
        ];
        assert_eq!(of(&base), Some((MACHINE, By::Machine)));
        let limited = [
            &base[..],
            &[
                ("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "4294967296\n"),
                (
                    "sys/fs/cgroup/memory/slurm/job_7/memory.stat",
                    "inactive_file 7\ntotal_inactive_file 1016619008\n",
                ),
            ],
        ]
        .concat();
        let job = By::Group("/sys/fs/cgroup/memory/slurm/job_7".into());
        assert_eq!(of(&limited), Some((4_294_967_296 - 2_590_523_392 + 1_016_619_008, job)));
    }

    /// Inside a container the mount's root is the container's group, under its name on the host; a name may also lead out of the mount.
    #[test]
    fn in_a_container_the_mount_is_the_group() {
        for (group, top) in
            [("/docker/abc", "/docker/abc"), ("/docker/abc", "/elsewhere"), ("/../..", "/"), ("/", "/")]
        {
            let mounts = format!("35 30 0:30 {top} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
            let cgroup = format!("0::{group}\n");
            let found = of(&[
                MEMINFO,
                ("proc/self/cgroup", &cgroup),
                ("proc/self/mountinfo", &mounts),
                ("sys/fs/cgroup/memory.max", "2000000000\n"),
                ("sys/fs/cgroup/memory.current", "500000000\n"),
            ]);
            assert_eq!(found, Some((1_500_000_000, By::Group("/sys/fs/cgroup".into()))), "{group} {top}");
        }
    }

    #[test]
    fn what_is_no_such_file_says_nothing() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "::\nx\n0::/a\n4:memory:/a\n"),
            ("proc/self/mountinfo", " - \n1 - cgroup2\n\n- cgroup x memory\n"),
        ];
        assert_eq!(of(&files), Some((MACHINE, By::Machine)));
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        let bytes = |text: &str| text.parse::<Size>().map(|s| s.bytes);
        assert_eq!(bytes("8GB"), Ok(8_000_000_000));
        assert_eq!(bytes(" 1.5 gib "), Ok(3 << 29));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in ["", "GB", "8XB", "-1GB", "0", "1e9", "nan", "8 GB free", "99999999TB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        let setting = "2MB".parse().unwrap();
        assert_eq!(available(Some(&setting)), Some(Available { bytes: 2_000_000, by: By::Setting }));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_figures() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let outline = Outline::load(&tiny, Precision::F32).unwrap();
        let of = |bytes| Available { bytes, by: By::Setting };
        let check = |free: Option<&Available>| super::check(&outline, Outline::loading_bytes, free);
        let enough = outline.loading_bytes() as u64;
        assert!(check(Some(&of(enough + 1))).is_ok() && check(None).is_ok());
        assert!(check(Some(&of(enough - 1))).is_err());
        let error = check(Some(&of(1000))).unwrap_err();
        for part in ["while it loads", "after", "0 MB are free", "as --memory says"] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(error.hint.unwrap().contains("LORAFAB_MEMORY"));
    }
}
