//! Bundles: tar files of records and blobs.

use serde_json::{Value, json};

use crate::models::{fifo, sparse};
use crate::{Case, End, binary, case, copy, put, store};

/// A tar entry of any kind and declared size.
fn entry(name: &str, kind: u8, bytes: &[u8], says: Option<u64>) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(says.unwrap_or(bytes.len() as u64));
    header.set_mode(0o644);
    let n = name.len().min(99);
    header.as_mut_bytes()[..n].copy_from_slice(&name.as_bytes()[..n]);
    header.as_mut_bytes()[156] = kind;
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// A bundle of the store's first adapter, with its manifest changed and more entries.
fn bundle(name: &str, change: impl Fn(&mut Value) + Sync + Send + 'static, more: Vec<Vec<u8>>) -> Case {
    case(name, End::Refused, "--store store --model $TINY adapter import x.tar", move |folder| {
        store(&folder.join("made"));
        let out = binary(folder).args(["--store", "made", "adapter", "bundle", "good.tar"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let good = std::fs::read(folder.join("good.tar")).unwrap();
        let mut archive = tar::Archive::new(&good[..]);
        let mut out = Vec::new();
        for e in archive.entries().unwrap() {
            use std::io::Read;
            let mut e = e.unwrap();
            let name = String::from_utf8(e.path_bytes().into_owned()).unwrap();
            let mut bytes = Vec::new();
            e.read_to_end(&mut bytes).unwrap();
            if name == "manifest.json" {
                let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
                change(&mut manifest);
                bytes = manifest.to_string().into_bytes();
            }
            out.extend(entry(&name, b'0', &bytes, None));
        }
        more.iter().for_each(|m| out.extend(m));
        out.extend([0; 1024]);
        put(&folder.join("x.tar"), out);
        std::fs::remove_dir_all(folder.join("made")).unwrap();
        std::fs::remove_file(folder.join("good.tar")).unwrap();
    })
}

fn raw(name: &str, make: impl Fn() -> Vec<u8> + Sync + Send + 'static) -> Case {
    case(name, End::Refused, "--store store --model $TINY adapter import x.tar", move |folder| {
        put(&folder.join("x.tar"), make())
    })
}

pub(crate) fn cases() -> Vec<Case> {
    use End::Refused;
    fn first(key: &'static str, value: Value) -> impl Fn(&mut Value) + Sync + Send + 'static {
        move |m| m["adapters"][0][key] = value.clone()
    }
    let digest = "0".repeat(64);
    vec![
        bundle(
            "a further file that leads up",
            first("extra_files", json!({"../../outside/kept.txt": digest})),
            vec![],
        ),
        bundle(
            "a further file by its absolute name",
            first("extra_files", json!({"/tmp/lorafab-hostile": digest})),
            vec![],
        ),
        bundle(
            "a further file over the adapter's own",
            first("extra_files", json!({"adapter_config.json": digest})),
            vec![],
        ),
        bundle(
            "ten thousand further files",
            first(
                "extra_files",
                (0..10_000)
                    .map(|i| (format!("f{i}"), json!(digest)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            ),
            vec![],
        ),
        bundle("an id that is a path", first("id", json!("../../outside/folder/old")), vec![]),
        bundle("a short id", first("id", json!("a")), vec![]),
        bundle("an id cut in a letter", first("id", json!("aaaaaaaaaaaé")), vec![]),
        bundle("a specification hash of somebody else's", first("spec_hash", json!("f".repeat(64))), vec![]),
        bundle("a specification of somebody else's", first("spec", json!({"behaviour": "x"})), vec![]),
        bundle("a behaviour like an id", first("behaviour", json!("abcdef12")), vec![]),
        bundle("a behaviour with controls", first("behaviour", json!("topic/\u{1b}[2J")), vec![]),
        bundle("a behaviour of nothing", first("behaviour", json!("")), vec![]),
        bundle("a rank of zero", |m| m["adapters"][0]["peft"]["r"] = json!(0), vec![]),
        bundle("a rank of millions", |m| m["adapters"][0]["peft"]["r"] = json!(5_000_000), vec![]),
        bundle("alpha of nothing", |m| m["adapters"][0]["peft"]["lora_alpha"] = Value::Null, vec![]),
        bundle(
            "a module that no model has",
            |m| m["adapters"][0]["peft"]["target_modules"] = json!(["x_proj"]),
            vec![],
        ),
        bundle("bytes that are not", first("weights_bytes", json!(u64::MAX)), vec![]),
        bundle("another schema", |m| m["schema"] = json!("bundle/9\u{1b}[2J"), vec![]),
        bundle("an entry that leads up", |_| {}, vec![entry("../../outside/kept.txt", b'0', b"x", None)]),
        bundle(
            "an entry by its absolute name",
            |_| {},
            vec![entry("/tmp/lorafab-hostile", b'0', b"x", None)],
        ),
        bundle("an entry that is a link", |_| {}, vec![entry("blobs/link", b'2', b"", None)]),
        bundle("an entry that is a device", |_| {}, vec![entry("blobs/device", b'3', b"", None)]),
        bundle(
            "an entry with a long name",
            |_| {},
            vec![entry("././@LongLink", b'L', &[b'a'; 1 << 20], None)],
        ),
        bundle(
            "an entry that says it is longer",
            |_| {},
            vec![entry(&format!("blobs/{}", "1".repeat(64)), b'0', b"x", Some(7 << 30))],
        ),
        bundle(
            "twenty thousand entries",
            |_| {},
            (0..20_000).map(|i| entry(&format!("blobs/{i:064x}"), b'0', b"x", None)).collect(),
        ),
        raw("a manifest of zeros", || {
            [entry("manifest.json", b'0', &vec![0; 60 << 20], None), vec![0; 1024]].concat()
        }),
        raw("a manifest of many zeros", || {
            let text = format!("{{\"schema\": \"bundle/1\", \"adapters\": [[0{}]]}}", ",0".repeat(15 << 20));
            [entry("manifest.json", b'0', text.as_bytes(), None), vec![0; 1024]].concat()
        }),
        raw("a hundred thousand records", || {
            let text = format!("{{\"schema\": \"bundle/1\", \"adapters\": [{{}}{}]}}", ",{}".repeat(100_000));
            [entry("manifest.json", b'0', text.as_bytes(), None), vec![0; 1024]].concat()
        }),
        raw("a manifest that says it is longer", || entry("manifest.json", b'0', b"{}", Some(u64::MAX >> 3))),
        raw("a manifest of brackets", || {
            [entry("manifest.json", b'0', &[b'['; 1 << 20], None), vec![0; 1024]].concat()
        }),
        raw("compressed", || b"\x1f\x8b\x08\x00nothing".to_vec()),
        raw("nothing", Vec::new),
        case("a sparse bundle", Refused, "--store store --model $TINY adapter import x.tar", |folder| {
            sparse(&folder.join("x.tar"), 9 << 30)
        }),
        case("a sparse blob", Refused, "--store store --model $TINY adapter import x.tar", |folder| {
            let head = entry("manifest.json", b'0', b"{\"schema\": \"bundle/1\", \"adapters\": []}", None);
            put(
                &folder.join("x.tar"),
                [head, entry(&format!("blobs/{}", "1".repeat(64)), b'0', b"", Some(8 << 30))].concat(),
            );
            std::fs::OpenOptions::new()
                .write(true)
                .open(folder.join("x.tar"))
                .unwrap()
                .set_len(9 << 30)
                .unwrap();
        }),
        case(
            "a bundle that is a pipe",
            Refused,
            "--store store --model $TINY adapter import x.tar",
            |folder| fifo(&folder.join("x.tar")),
        ),
        case(
            "a store in place of a bundle",
            End::Refused,
            "--store store --model $TINY adapter import other",
            |folder| {
                store(&folder.join("made"));
                copy(&folder.join("made"), &folder.join("other"));
                std::fs::remove_dir_all(folder.join("made")).unwrap();
            },
        ),
    ]
}
