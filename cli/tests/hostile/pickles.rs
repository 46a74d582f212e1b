//! Pickles as torch writes them: a zip archive with `data.pkl`.

use std::io::Write;

use crate::models::{fifo, sparse};
use crate::{Case, End, case, put};

fn archive(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn pickle(name: &str, make: impl Fn() -> Vec<u8> + Sync + Send + 'static) -> Case {
    case(name, End::Refused, "--store store --model $TINY adapter import x.pt", move |folder| {
        put(&folder.join("x.pt"), archive(&[("x/data.pkl", make())]));
    })
}

fn text(t: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((t.len() as u32).to_le_bytes());
    out.extend(t.as_bytes());
    out
}

/// A tensor of a storage: rows, columns and strides.
fn tensor(key: &str, size: [u32; 2], stride: [u32; 2]) -> Vec<u8> {
    let number = |n: u32| [&[b'J'][..], &n.to_le_bytes()].concat();
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(text("storage"));
    out.extend(b"ctorch\nFloatStorage\n");
    out.extend(text(key));
    out.extend(text("cpu"));
    out.extend(number(1));
    out.extend(b"tQ");
    out.extend(number(0));
    for pair in [size, stride] {
        out.push(b'(');
        pair.into_iter().for_each(|n| out.extend(number(n)));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    out
}

/// A diff of modules, each of two such tensors.
fn diff(modules: usize, size: [u32; 2], stride: [u32; 2], one_storage: bool) -> Vec<u8> {
    let mut out = b"\x80\x02](}(".to_vec();
    out.extend(text("topic"));
    out.extend(text("cats"));
    out.extend(text("weight_diff"));
    out.extend(b"}(");
    for i in 0..modules {
        out.extend(text(&format!("model.layers.{i}.self_attn.q_proj")));
        out.push(b'(');
        let key = if one_storage { "0".to_owned() } else { i.to_string() };
        out.extend(tensor(&key, size, stride));
        out.extend(tensor(&key, size, stride));
        out.push(b't');
    }
    out.extend(b"uue.");
    out
}

pub(crate) fn cases() -> Vec<Case> {
    use End::Refused;
    let shared = |name: &str, modules: usize, size: [u32; 2], stride: [u32; 2], bytes: usize| {
        case(name, Refused, "--store store --model $TINY adapter import x.pt", move |folder| {
            let entries = [("x/data.pkl", diff(modules, size, stride, true)), ("x/data/0", vec![0u8; bytes])];
            put(&folder.join("x.pt"), archive(&entries));
        })
    };
    vec![
        pickle("nested tuples", || [b"\x80\x02N".to_vec(), vec![0x85; 300_000], b".".to_vec()].concat()),
        pickle("nested pairs", || [b"\x80\x02N".to_vec(), b"N\x86".repeat(300_000), b".".to_vec()].concat()),
        pickle("nested lists", || {
            [b"\x80\x02".to_vec(), b"](".repeat(200_000), b"e".repeat(200_000), b".".to_vec()].concat()
        }),
        pickle("nested dictionaries", || {
            [b"\x80\x02".to_vec(), b"}N".repeat(200_000), b"N".to_vec(), b"s".repeat(200_000), b".".to_vec()]
                .concat()
        }),
        pickle("nested calls", || {
            [b"\x80\x02cbuiltins\nlist\n".to_vec(), b"\x85cbuiltins\nlist\nR".repeat(20_000), b".".to_vec()]
                .concat()
        }),
        pickle("one list remembered again and again", || {
            let list = [b"](".to_vec(), b"N".repeat(10_000), b"e".to_vec()].concat();
            let puts: Vec<u8> =
                (0..30_000u32).flat_map(|i| [&[b'r'][..], &i.to_le_bytes()].concat()).collect();
            [b"\x80\x02".to_vec(), list, puts, b".".to_vec()].concat()
        }),
        pickle("references that double", || {
            let mut out = b"\x80\x02Nq\x00".to_vec();
            for i in 0..60u8 {
                out.extend([b'h', i, b'h', i, 0x86, b'q', i + 1]);
            }
            [out, b".".to_vec()].concat()
        }),
        pickle("ninety million nothings", || {
            [b"\x80\x02".to_vec(), vec![b'N'; 90_000_000], b".".to_vec()].concat()
        }),
        pickle("ten million nothings", || {
            [b"\x80\x02".to_vec(), vec![b'N'; 10_000_000], b".".to_vec()].concat()
        }),
        pickle("marks without end", || [b"\x80\x02".to_vec(), vec![b'('; 5_000_000], b".".to_vec()].concat()),
        pickle("a text that says it is longer", || b"\x80\x02X\xff\xff\xff\x7fabc.".to_vec()),
        pickle("a call of the system", || b"cos\nsystem\n(X\x05\x00\x00\x00touchtR.".to_vec()),
        pickle("a name with controls", || b"c\x1b[2J\n\xc2\x9bx\n.".to_vec()),
        pickle("nothing", Vec::new),
        shared("tensors of one number", 2, [32_768, 32_768], [0, 0], 4),
        shared("thousands of tensors of one storage", 2000, [1000, 1000], [1000, 1], 4_000_000),
        shared("a tensor beyond its storage", 1, [1000, 1000], [1_000_000, 1_000_000], 4),
        shared("a tensor larger than numbers", 1, [u32::MAX >> 1, u32::MAX >> 1], [1, 1], 4),
        case(
            "hundreds of entries on one place",
            Refused,
            "--store store --model $TINY adapter import x.pt",
            |folder| {
                let entries =
                    [("x/data.pkl", diff(200, [1, 4], [4, 1], false)), ("x/data/0", vec![0u8; 1 << 20])];
                let whole = archive(&entries);
                // The central directory names the one storage two hundred times.
                let at = whole.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
                let end = whole.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
                let record = &whole[at..end];
                let mut out = whole[..end].to_vec();
                for i in 1..200 {
                    let mut again = record.to_vec();
                    let name = format!("x/data/{i}");
                    again[28..30].copy_from_slice(&(name.len() as u16).to_le_bytes());
                    again.splice(46..46 + 8, name.bytes());
                    out.extend(again);
                }
                let mut tail = whole[end..].to_vec();
                let (count, start) = (202u16, whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap());
                tail[8..10].copy_from_slice(&count.to_le_bytes());
                tail[10..12].copy_from_slice(&count.to_le_bytes());
                tail[12..16].copy_from_slice(&((out.len() - start) as u32).to_le_bytes());
                out.extend(tail);
                put(&folder.join("x.pt"), out);
            },
        ),
        case("a sparse archive", Refused, "--store store --model $TINY adapter import x.pt", |folder| {
            sparse(&folder.join("x.pt"), 8 << 30)
        }),
        case(
            "an archive that is a pipe",
            Refused,
            "--store store --model $TINY adapter import x.pt",
            |folder| fifo(&folder.join("x.pt")),
        ),
        case("no archive", Refused, "--store store --model $TINY adapter import x.pt", |folder| {
            put(&folder.join("x.pt"), "PK nothing")
        }),
    ]
}
