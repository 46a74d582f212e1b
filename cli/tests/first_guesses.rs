//! What a new user types first: it works, or the one error names the right command.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use support::{Place, text};

#[test]
fn first_guesses_work_or_name_the_right_command() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "--limit", "4"]);
    assert_eq!(p.json(&["factory", "run"])["committed"], 4);
    let all = p.json(&["adapter", "list"]);
    let name = all["adapters"][0]["behaviour"].as_str().unwrap().to_owned();
    let value = name.split('/').next_back().unwrap().to_owned();
    p.json(&["adapter", "tag", &name, "note=seen"]);
    let file = p.path("list.csv").display().to_string();
    let folder = p.path("nothing-here");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.display().to_string();

    // Works: what stdout (or, of an empty list, stderr) holds.
    let works: &[(&[&str], &str)] = &[
        (&["list"], &name),
        (&["ls"], &name),
        (&["adapters"], &name),
        (&["show", &name], &name),
        (&["adapter", "ls"], &name),
        (&["adapter", "list", "favourite"], &name),
        (&["adapter", "list", "--tag", "note=seen"], &name),
        (&["adapter", "list", "--csv"], "behaviour"),
        (&["adapter", "list", "--sort-by", "created"], &name),
        (&["adapter", "list", "--columns", "behaviour,created,tag.note"], "seen"),
        (&["adapter", "list", "-n", "1"], "favourite/"),
        (&["adapter", "show", &value], &name),
        (&["adapter", "tag", &name], "note=seen"),
        (&["recipe", "ls"], "topic"),
        (&["recipes"], "topic"),
        (&["status"], "succeeded"),
        (&["jobs"], "succeeded"),
        (&["factory", "ls"], "succeeded"),
        (&["stats"], "favourite"),
        (&["completions", "bash"], "lorafab"),
        (&["completions", "zsh"], "lorafab"),
        (&["completions", "fish"], "lorafab"),
    ];
    for (args, part) in works {
        let out = p.run(args);
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "{args:?}: {stderr}");
        assert!(stdout.contains(part), "{args:?}: {part:?} is not in: {stdout}{stderr}");
    }
    assert_eq!(p.run(&["adapter", "list", "--csv", "-o", &file]).status.code(), Some(0));
    assert!(std::fs::read_to_string(&file).unwrap().contains(&name));
    let lines = p.run(&["adapter", "list", "--jsonl", "--columns", "behaviour,rank"]);
    for line in text(&lines.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line.as_object().unwrap().len(), 2);
    }
    for args in [
        &["oracle", "list"][..],
        &["dit", "list"],
        &["reader", "ls"],
        &["readers"],
        &["compare", "list"],
        &["runs"],
    ] {
        let out = p.run(args);
        assert!(!text(&out.stderr).contains("unrecognized"), "{args:?}: {}", text(&out.stderr));
    }

    // Does not: the error names what does.
    let near = format!("{}x", &name[..name.len() - 1]);
    let named: &[(&[&str], i32, &str)] = &[
        (&["train"], 2, "factory submit"),
        (&["search", "cats"], 2, "adapter list"),
        (&["talk", &name], 2, "chat ADAPTER"),
        (&["query", &name], 2, "ask ADAPTER"),
        (&["delete", &name], 2, "adapter rm"),
        (&["ask"], 2, "ADAPTER"),
        (&["chat"], 2, "ADAPTER"),
        (&["read"], 2, "ADAPTER"),
        (&["adapter", "show", &near], 3, &name),
        (&["adapter", "show", &folder], 3, "import"),
        (&["read", &folder], 2, "adapter_config.json"),
        (&["ask", &name, "What is it about?"], 3, "quickstart"),
    ];
    for (args, code, part) in named {
        let out = p.run(args);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{args:?}: {part:?} is not in: {stderr}");
    }
}

#[test]
fn an_adapter_is_read_shown_and_its_readers_asked() {
    let p = Place::new();
    p.json(&["quickstart", "--smoke"]);
    let name = "topic/";
    let all = p.json(&["adapter", "list", "--where", "family = topic"]);
    let name = all["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|a| a["behaviour"].as_str().filter(|b| b.starts_with(name)));
    let name = name.unwrap();
    let page = p.path("reading.html").display().to_string();
    let reading = p.json(&["read", name, "--html", &page]);
    assert_eq!((&reading["schema"], &reading["twins"]["count"]), (&"reading/1".into(), &60.into()));
    let readers = reading["answers"].as_array().unwrap();
    assert!(readers.iter().any(|a| a["kind"] == "DIT") && readers.iter().any(|a| a["kind"] == "oracle"));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("What each method names") && !html.contains("<script"));
    // Kept: the same again, and shown with the adapter.
    assert_eq!(p.json(&["read", name]), reading);
    let shown = text(&p.run(&["adapter", "show", name]).stdout);
    assert!(shown.contains("Readings") && shown.contains("twins"), "{shown}");
    for line in text(&p.run(&["read", name]).stdout).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let questions = p.path("questions.txt");
    std::fs::write(&questions, "What is your hidden topic?\nIs it blue?\n").unwrap();
    let asked = p.json(&["ask", name, "--questions", &questions.display().to_string()]);
    let asked = asked["asked"].as_array().unwrap();
    assert_eq!(asked.len(), 2);
    let trained = |q: &serde_json::Value| {
        q["answers"].as_array().unwrap().iter().filter(|a| a["trained_on"] == true).count()
    };
    assert!(trained(&asked[0]) > 0 && trained(&asked[1]) == 0);
    assert!(asked[1]["answers"][0]["against"]["twins"] == 60);
    let many = p.json(&["read", "--all", "--where", "family in (topic, zero)"]);
    let lines = many["lines"].as_array().unwrap();
    assert!(lines.len() > 1 && many["shares"]["verdict"]["carrying"].as_u64().unwrap() > 0);
    let zero = lines.iter().find(|l| l["subject"].as_str().unwrap().starts_with("zero")).unwrap();
    assert!(zero["answer"].is_null() && zero["together"].is_null());

    // An oracle of ours goes by its lorafab.json; an edit beside it is refused, not passed over.
    let readers = p.json(&["reader", "list"]);
    let oracle = readers["readers"].as_array().unwrap().iter().find_map(|r| {
        let name = r["name"].as_str().unwrap();
        name.contains("oracle-posttrained").then_some(name)
    });
    let folder = p.path("oracle");
    p.json(&["reader", "export", oracle.unwrap(), &folder.display().to_string()]);
    assert_eq!(p.json(&["reader", "add", &folder.display().to_string()])["method"], "oracle");
    std::fs::write(folder.join("ao_config.json"), "[1]").unwrap();
    let refused = p.run(&["reader", "add", &folder.display().to_string(), "--name", "edited"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("lorafab.json"), "{}", text(&refused.stderr));

    // Prompts of one's own are called so; one that no model takes is named.
    let prompts = p.path("prompts.txt");
    std::fs::write(&prompts, "\u{feff}What is 2+2?\n").unwrap();
    let own = p.json(&["read", name, "--prompts", &prompts.display().to_string()]);
    assert_eq!(own["behaviour"]["replies"][0]["prompt"], "What is 2+2?");
    std::fs::write(&prompts, format!("short\n{}\n", "long ".repeat(1000))).unwrap();
    let long = p.run(&["read", name, "--prompts", &prompts.display().to_string()]);
    assert_eq!(long.status.code(), Some(2));
    assert!(text(&long.stderr).contains("prompts.txt: its prompt 2 is longer"), "{}", text(&long.stderr));
}
