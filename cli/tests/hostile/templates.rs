//! Chat templates: programs of strangers, in a folder and inside a GGUF file alike.

use serde_json::{Value, json};

use crate::{Case, End, case, copy, look, put, tiny};

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn of(name: &str, end: End, template: String) -> Case {
    case(name, end, "--model model intervention run look.json", move |folder| {
        copy(&tiny(), &folder.join("model"));
        let config: Value = json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template});
        put(&folder.join("model/tokenizer_config.json"), config.to_string());
        look(folder);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    use End::{Bounded, Refused};
    let with = |text: &str| format!("{text}{CHATML}");
    let many = |text: &str, n: usize| text.repeat(n);
    let doubled = |n: usize| {
        format!("{{% set ns = namespace(x='aaaaaaaa') %}}{}", "{% set ns.x = ns.x ~ ns.x %}".repeat(n))
    };
    vec![
        of(
            "nested loops",
            Refused,
            with(
                "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
            ),
        ),
        of(
            "loops that print",
            Refused,
            with(
                "{% for a in range(9999) %}{% for b in range(9999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
            ),
        ),
        of("a string that doubles", Refused, with(&doubled(40))),
        of("a string that doubles and is printed", Refused, with(&format!("{}{{{{ ns.x }}}}", doubled(26)))),
        of(
            "a list that doubles",
            Refused,
            with(&format!("{{% set ns = namespace(x=[1]) %}}{}", "{% set ns.x = ns.x + ns.x %}".repeat(40))),
        ),
        of(
            "a list that doubles is printed",
            Bounded,
            with(&format!(
                "{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x }}}}",
                "{% set ns.x = ns.x + ns.x %}".repeat(24)
            )),
        ),
        of("a string times a number", Refused, with("{{ 'aaaaaaaaaaaaaaaa' * 1000000000 }}")),
        of("a list times a number", Refused, with("{{ ([1, 2, 3] * 1000000000) | length }}")),
        of("batch", Refused, with("{{ range(10) | batch(4000000000, 'x') | list }}")),
        of(
            "batch that fills",
            Bounded,
            with("{% for b in [1] | batch(900000000, 'x') %}{{ b | length }}{% endfor %}"),
        ),
        of("slice", Bounded, with("{{ range(10) | slice(4000000000) | list | length }}")),
        of("replace", Refused, with("{% set a = 'a' * 10000 %}{{ a | replace('a', a) | replace('a', a) }}")),
        of("format", Bounded, with("{{ '%999999999d' | format(1) }}")),
        of("python's format", Bounded, with("{{ '{:>999999999}'.format(1) }}")),
        of("indent", Bounded, with("{{ 'a\n' * 1000 | indent(999999999) }}")),
        of("center", Bounded, with("{{ 'a' | center(4000000000) }}")),
        of("ljust", Bounded, with("{{ 'a'.ljust(4000000000) }}")),
        of("zfill", Bounded, with("{{ 'a'.zfill(4000000000) }}")),
        of("join", Refused, with("{% set a = 'a' * 100000 %}{{ range(99999) | join(a) }}")),
        of(
            "a namespace in itself, printed",
            Bounded,
            with("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"),
        ),
        of(
            "a namespace in itself, compared",
            Bounded,
            with(
                "{% set a = namespace() %}{% set a.x = a %}{% set b = namespace() %}{% set b.x = b %}{{ a == b }}",
            ),
        ),
        of(
            "a namespace in itself, as JSON",
            Bounded,
            with("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}"),
        ),
        of("a macro that calls itself", Refused, with("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")),
        of(
            "macros that call each other twice",
            Refused,
            with(
                "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            ),
        ),
        of("chained plus", Bounded, with(&format!("{{{{ 1{} }}}}", many(" + 1", 10_000)))),
        of("chained minus signs", Bounded, with(&format!("{{{{ {}1 }}}}", many("-", 50_000)))),
        of("chained not", Bounded, with(&format!("{{{{ {}true }}}}", many("not ", 20_000)))),
        of("chained filters", Bounded, with(&format!("{{{{ 'a'{} }}}}", many(" | trim", 20_000)))),
        of("chained tests", Bounded, with(&format!("{{{{ 1{} }}}}", many(" is defined", 20_000)))),
        of("chained attributes", Bounded, with(&format!("{{{{ messages{} }}}}", many(".a", 40_000)))),
        of("chained calls", Bounded, with(&format!("{{{{ messages{} }}}}", many("()", 40_000)))),
        of("chained subscripts", Bounded, with(&format!("{{{{ messages{} }}}}", many("[0]", 40_000)))),
        of("chained comparisons", Bounded, with(&format!("{{{{ 1{} }}}}", many(" < 1", 20_000)))),
        of("chained ifs", Bounded, with(&format!("{{{{ {}1 }}}}", many("1 if 1 else ", 10_000)))),
        of(
            "nested brackets",
            Bounded,
            with(&format!("{{{{ {}1{} }}}}", many("(", 40_000), many(")", 40_000))),
        ),
        of("nested lists", Bounded, with(&format!("{{{{ {}1{} }}}}", many("[", 40_000), many("]", 40_000)))),
        of(
            "nested dictionaries",
            Bounded,
            with(&format!("{{{{ {}1{} }}}}", many("{'a':", 20_000), many("}", 20_000))),
        ),
        of(
            "nested ifs",
            Bounded,
            with(&format!("{}{}", many("{% if 1 %}", 8_000), many("{% endif %}", 8_000))),
        ),
        of(
            "nested loops by the thousand",
            Bounded,
            with(&format!("{}{}", many("{% for a in [1] %}", 5_000), many("{% endfor %}", 5_000))),
        ),
        of("elifs", Bounded, with(&format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 15_000)))),
        of("a long template", Refused, with(&many("a", 2 << 20))),
        of("a template that includes", Refused, with("{% include '/etc/passwd' %}")),
        of("a template that extends", Refused, with("{% extends '../../outside/kept.txt' %}")),
        of("a template that imports", Refused, with("{% import 'os' as os %}{{ os.system('touch x') }}")),
        of("python's attributes", Bounded, with("{{ ''.__class__.__mro__ }}")),
        of("an exception with controls", Refused, with("{{ raise_exception('\u{1b}[2J\u{9b}2J\u{202e}') }}")),
        of("an exception of a megabyte", Refused, with("{{ raise_exception('a' * 1000000) }}")),
        of("no output", Refused, String::new()),
        of("nothing that it was given", Refused, "hello".into()),
        of(
            "a loop only for a later message",
            Bounded,
            format!(
                "{{% if messages | length > 2 %}}{{% for a in range(9999) %}}{{% for b in range(9999) %}}{{% endfor %}}{{% endfor %}}{{% endif %}}{CHATML}"
            ),
        ),
        of(
            "a loop only for a long message",
            Refused,
            format!(
                "{{% if messages[-1].content | length > 12 %}}{{% for a in range(9999) %}}{{% for b in range(9999) %}}{{% endfor %}}{{% endfor %}}{{% endif %}}{CHATML}"
            ),
        ),
        of("range of everything", Refused, with("{{ range(0, 99999999999) | list | length }}")),
        of("a sort of much", Bounded, with("{{ (range(9999) | list) | sort | map('string') | join('') }}")),
        of("a regular expression", Bounded, with("{{ 'a' | regex_replace('(a+)+$', 'b') }}")),
    ]
}
