//! Recipes, files of jobs, specs, arms.

use serde_json::json;

use crate::models::{fifo, link, sparse};
use crate::{Case, End, case, put, store};

fn recipe_text() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/builtin/topic.toml")).unwrap()
}

fn recipe(name: &str, end: End, change: impl Fn(String) -> String + Sync + Send + 'static) -> Case {
    case(name, end, "recipe check x.toml", move |folder| put(&folder.join("x.toml"), change(recipe_text())))
}

fn jobs(name: &str, text: String) -> Case {
    case(name, End::Refused, "--store store --model $TINY factory submit jobs.toml", move |folder| {
        store(&folder.join("store"));
        put(&folder.join("jobs.toml"), &text);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    use End::{Bounded, Refused};
    let job = |more: &str| {
        format!(
            "schema = \"jobs/1\"\n[[job]]\nname = \"a\"\nkind = \"adapters\"\nrecipes = [\"topic\"]\n{more}\n"
        )
    };
    let spec = |name: &str, text: String| {
        case(name, Refused, "--model $TINY intervention run x.json", move |folder| {
            put(&folder.join("x.json"), &text)
        })
    };
    let arms = |name: &str, text: String| {
        case(name, Refused, "compare arms --show x.toml", move |folder| put(&folder.join("x.toml"), &text))
    };
    let bounded = |name: &str, text: String| {
        case(name, Bounded, "compare arms --show x.toml", move |folder| put(&folder.join("x.toml"), &text))
    };
    let values = |n: usize| (0..n).map(|i| format!("\"v{i}x\"")).collect::<Vec<_>>().join(",");
    vec![
        recipe("copies by the million million", Refused, |_| "name = \"x\"\nversion = 1\ndescription = \"x\"\nkind = \"random\"\npolarity = \"negative\"\ncopies = 1000000000000\n[questions]\ntrain = [\"a?\"]\nheld_out = [\"b?\"]\n".into()),
        recipe("fields that double", Refused, |t| {
            let mut entry = "[[vocabulary]]\ncategory = \"d\"\n[[vocabulary.entries]]\nvalue = \"doubled\"\n".to_owned();
            for i in 0..30u8 {
                let (a, b) = ((b'a' + i / 26) as char, (b'a' + i % 26) as char);
                let next = i + 1;
                let (c, d) = ((b'a' + next / 26) as char, (b'a' + next % 26) as char);
                entry.push_str(&format!("f{a}{b} = \"{{f{c}{d}}}{{f{c}{d}}}\"\n"));
            }
            format!("{t}\n{entry}")
        }),
        recipe("fifty thousand values", Refused, move |t| format!("{t}\n[[vocabulary]]\ncategory = \"many\"\nvalues = [{}]\n", values(50_000))),
        recipe("a text of megabytes", Refused, |t| t.replacen("description = \"", &format!("description = \"{}", "a".repeat(2 << 20)), 1)),
        recipe("tables in tables", Refused, |_| format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000))),
        recipe("dotted keys", Refused, |_| format!("{} = 1", vec!["a"; 100_000].join("."))),
        recipe("a name with controls", Refused, |t| t.replacen("name = \"topic\"", "name = \"\\u001b[2J\\u202e\"", 1)),
        recipe("a key with controls", Refused, |t| format!("\"\\u001b[2J\\u202e\" = 1\n{t}")),
        recipe("a number without end", Refused, |t| t.replacen("version = ", "version = 9999999999999999999999", 1)),
        case("a sparse recipe", Refused, "recipe check x.toml", |f| sparse(&f.join("x.toml"), 4 << 30)),
        case("a recipe that is a pipe", Refused, "recipe check x.toml", |f| fifo(&f.join("x.toml"))),
        case("a recipe that is a device", Refused, "recipe check x.toml", |f| link("/dev/zero", &f.join("x.toml"))),
        case("a recipe that is the machine's", Refused, "recipe check /dev/zero", |_| {}),
        case("a recipe of bytes", Refused, "recipe show x.toml", |f| put(&f.join("x.toml"), [0xff; 100])),
        case("ten thousand times the same recipe", Refused, &format!("--store store --model $TINY factory submit{}", " topic".repeat(10_000)), |f| store(&f.join("store"))),
        jobs("attempts below zero", job("attempts = -1")),
        jobs("a recipe ten thousand times", job("").replace("[\"topic\"]", &format!("[{}]", vec!["\"topic\""; 10_000].join(",")))),
        jobs("a hundred thousand jobs", (0..100_000).fold("schema = \"jobs/1\"\n".to_owned(), |t, i| t + &format!("[[job]]\nname = \"a{i}\"\nkind = \"adapters\"\nrecipes = [\"topic\"]\n"))),
        jobs("a recipe elsewhere", job("").replace("\"topic\"", "\"../outside/kept.toml\"")),
        jobs("a recipe by its absolute name", job("").replace("\"topic\"", "\"/etc/hostname.toml\"")),
        jobs("a name that is a path", job("").replace("name = \"a\"", "name = \"../../x\"")),
        jobs("a name with controls", job("").replace("name = \"a\"", "name = \"\\u001b[2J\"")),
        jobs("a cap that is no number", job("max_tflop = nan")),
        case("jobs that are a pipe", Refused, "--store store --model $TINY factory submit jobs.toml", |f| {
            store(&f.join("store"));
            fifo(&f.join("jobs.toml"));
        }),
        spec("a spec of brackets", "[".repeat(1 << 20)),
        spec("a spec of a hundred thousand steps", json!({"v": 1, "inputs": {"x": {"text": "a"}}, "out": [], "steps": vec![json!({"op": "forward", "id": "f", "input": "x"}); 100_000]}).to_string()),
        spec("a text of megabytes", json!({"v": 1, "inputs": {"x": {"text": "a ".repeat(4 << 20)}}, "out": [], "steps": [{"op": "forward", "id": "f", "input": "x"}]}).to_string()),
        spec("a spec with controls", json!({"v": 1, "\u{1b}[2J\u{202e}": 1}).to_string()),
        case("a spec that is a pipe", Refused, "--model $TINY intervention run x.json", |f| fifo(&f.join("x.json"))),
        case("a spec that is a device", Refused, "--model $TINY intervention run x.json", |f| link("/dev/zero", &f.join("x.json"))),
        case("a sparse spec", Refused, "--model $TINY intervention run x.json", |f| sparse(&f.join("x.json"), 4 << 30)),
        arms("arms of brackets", "a = [".repeat(1 << 16)),
        bounded("an arm with controls", "schema = \"arms/1\"\n[[arm]]\nname = \"\\u001b[2J\\u202e\"\nmethod = \"x\"\n".into()),
        arms("a hundred thousand arms", (0..100_000).fold("schema = \"arms/1\"\n".to_owned(), |t, i| t + &format!("[[arm]]\nname = \"a{i}\"\nmethod = \"prior\"\n"))),
        bounded("a million steps", "schema = \"arms/1\"\n[[arm]]\nname = \"a\"\nmethod = \"dit\"\nreader = \"scratch\"\ntrain = { steps = 999999999999 }\n".into()),
        case("arms that are a pipe", Refused, "compare arms --show x.toml", |f| fifo(&f.join("x.toml"))),
        case("a corpus that is a device", Refused, "--store store --model $TINY oracle pretrain --corpus /dev/zero", |f| store(&f.join("store"))),
        case("a token that is a device", Bounded, "--offline --store store --model $TINY hub pull org/set", |f| {
            store(&f.join("store"));
            std::fs::create_dir_all(f.join(".cache/huggingface")).unwrap();
            link("/dev/zero", &f.join(".cache/huggingface/token"));
        }),
    ]
}
