//! Chat templates against transformers: whole templates with conversations, and a construct at a time.

use hoist::ErrorKind;
use hoist::verify::chat::{Chat, Moment, plain, render};
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/chat")
}

fn golden(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn show(failures: Vec<String>, count: usize) {
    let shown: Vec<&String> =
        failures.iter().take(std::env::var("SHOWN").map_or(40, |n| n.parse().unwrap())).collect();
    assert!(failures.is_empty(), "{} of {count} differ:\n{shown:#?}", failures.len());
}

/// Renders with everything that transformers was given.
fn rendered(
    template: &str,
    messages: &Json,
    more: &Map<String, Json>,
    special: &Json,
    now: i64,
) -> hoist::Result<String> {
    let mut extra = special.as_object().cloned().unwrap_or_default();
    let taken = ["tools", "documents", "add_generation_prompt"];
    extra.extend(
        more.iter().filter(|(k, _)| !taken.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())),
    );
    let list = |name: &str| more.get(name).and_then(Json::as_array).map(Vec::as_slice);
    render(
        template,
        &Chat {
            messages: messages.as_array().unwrap(),
            tools: list("tools"),
            documents: list("documents"),
            add_generation_prompt: more.get("add_generation_prompt") == Some(&json!(true)),
            extra: &extra,
            now: Some(Moment::of_unix(now)),
        },
    )
}

#[test]
fn whole_templates_render_as_in_python() {
    let cases = golden("cases.json");
    let now = cases["now"].as_i64().unwrap();
    let (mut failures, mut count) = (Vec::new(), 0);
    let mut rendered_count = 0;
    for (name, expected) in cases["rendered"].as_object().unwrap() {
        let template = std::fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
        for (conversation, expected) in
            cases["conversations"].as_array().unwrap().iter().zip(expected.as_array().unwrap())
        {
            count += 1;
            let more = conversation["more"].as_object().unwrap();
            let got = rendered(&template, &conversation["messages"], more, &cases["special"], now);
            let fits = match (&got, &expected["text"], expected["error"].as_str()) {
                (Ok(text), Json::String(expected), _) => {
                    rendered_count += 1;
                    text == expected
                }
                (Err(e), _, Some("raised")) => {
                    e.kind() == ErrorKind::BadInput
                        && e.to_string().contains(expected["message"].as_str().unwrap())
                }
                (Err(e), _, Some(_)) => e.kind() == ErrorKind::BadInput,
                _ => false,
            };
            if !fits {
                failures.push(format!("{name}, {}:\n got {got:?}\nwant {expected}", conversation["name"]));
            }
        }
    }
    assert!(
        rendered_count > 150 && cases["rendered"].as_object().unwrap().len() >= 20,
        "{rendered_count} of {count}"
    );
    show(failures, count);
}

/// Constructs that are refused although Python renders them (`verify::chat` lists them) are refused by name, and their
/// number is held down.
#[test]
fn each_construct_means_what_it_means_in_python_or_is_refused() {
    let probes = golden("probes.json");
    let now = probes["now"].as_i64().unwrap();
    let special = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let messages = json!([{"role": "user", "content": "x"}]);
    let values = probes["values"].as_object().unwrap();
    let (mut failures, mut refused) = (Vec::new(), Vec::new());
    let rows = probes["probes"].as_array().unwrap();
    for row in rows {
        let template = row[0].as_str().unwrap();
        let got = rendered(template, &messages, values, &special, now);
        let fits = match (&got, &row[1]) {
            (Ok(text), Json::String(expected)) => text == expected,
            (Ok(_), _) => false,
            (Err(e), Json::String(_)) if e.kind() == ErrorKind::Unsupported => {
                refused.push(format!("{template}: {e}"));
                true
            }
            (Err(_), Json::String(_)) => false,
            (Err(e), _) => matches!(e.kind(), ErrorKind::BadInput | ErrorKind::Unsupported),
        };
        if !fits {
            failures.push(format!("{template}\n got {got:?}\nwant {}", row[1]));
        }
    }
    if std::env::var_os("REFUSED").is_some() {
        eprintln!("{refused:#?}");
    }
    show(failures, rows.len());
    assert!(refused.len() * 14 < rows.len(), "{} of {} are refused: {refused:#?}", refused.len(), rows.len());
}

#[test]
fn a_hostile_template_is_refused() {
    let nested = |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(5000), close.repeat(5000));
    let blocks = format!("{}x{}", "{% if true %}".repeat(3000), "{% endif %}".repeat(3000));
    let branches = format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(100_000));
    let doubled = format!("{{% set x = 'ab' %}}{}", "{% set x = x ~ x %}".repeat(60));
    let captured = format!("{{% set x = 'ab' %}}{}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60));
    let long_chain = format!("{{{{ 1{} }}}}", " + 1".repeat(100_000));
    let rows: &[(&str, &str)] = &[
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(99999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "have no end",
        ),
        (
            "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "have no end",
        ),
        (&doubled, "have no end"),
        (&captured, "have no end"),
        (
            "{% macro d(x, n) %}{% if n %}{{ d(x, n - 1) }}{{ d(x, n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ d('abcd' * 1000, 30) }}",
            "have no end",
        ),
        ("{{ 'a' * 1000000000000 }}", "have no end"),
        ("{{ [0] * 1000000000000 }}", "have no end"),
        ("{{ ('abc' * 1000000).replace('', 'x' * 10000) }}", "have no end"),
        ("{{ ('abc' * 1000000) | replace('b', 'x' * 10000) }}", "have no end"),
        ("{{ ('a,' * 30000000).split(',') | length }}", "have no end"),
        ("{{ ('a' * 30000000) | list | length }}", "have no end"),
        ("{{ ('a' * 60000000)[::-1] }}", "have no end"),
        ("{{ ([1] * 1000000) | join('x' * 1000) }}", "have no end"),
        ("{{ 'x' | indent(1000000000) }}", "more than 1000"),
        ("{{ [[1]] | tojson(indent=1000000) }}", "no small number"),
        ("{{ 2 ** 100000 }}", "128 bits"),
        ("{{ 'x' | center(1000000000000) }}", "center"),
        ("{{ '%99999999999d' % 1 }}", "`%` on a text"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "have no end"),
        (
            "{% for a in range(9999) %}{% for b in 'ab' %}{% for c in 'ab' * 99 %}{% endfor %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        (
            "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}{% endcall %}",
            "recursion",
        ),
        ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "one in another",
        ),
        (
            "{% set ns = namespace(m=dict(a=1)) %}{% for i in range(99999) %}{% set ns.m = dict(ns.m, b=ns.m) %}{% endfor %}",
            "one in another",
        ),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(9) %}{% set ns.x = [ns.x] | map('list') %}{% endfor %}",
            "inside another value",
        ),
        (
            "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "steps",
        ),
        (
            "{% set x = range(99999) | list %}{% for i in range(9999) %}{% if 'k' in x %}{% endif %}{% endfor %}",
            "steps",
        ),
        (
            "{% set x = 'ab' * 999999 %}{% for i in range(99999) %}{% if x == x %}{% endif %}{% endfor %}",
            "steps",
        ),
        ("{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns.x }}", "inside another value"),
        ("{{ '/etc/passwd' | include }}", "the filter `include`"),
        ("{% include '/etc/passwd' %}", "include"),
        ("{% import '/etc/passwd' as x %}", "import"),
        ("{% extends '/etc/passwd' %}", "extends"),
        ("{{ messages.__class__.__mro__ }}", "internals"),
        ("{% for i in [1] %}{% with %}{% break %}{% endwith %}{% endfor %}", "`break` out of a block"),
        (&nested("(", ")"), "in a statement"),
        (&nested("[", "]"), "in a statement"),
        (&nested("-", ""), "in a statement"),
        (&nested("not ", ""), "in a statement"),
        (&nested("{1:", "}"), "in a statement"),
        (&blocks, "recursion"),
        (&branches, "elif"),
        (&long_chain, "in a statement"),
        (&format!("{{{{ 1{} }}}}", " + 1".repeat(900)), "one in another"),
        (&format!("{{{{ {}1 }}}}", "not ".repeat(1900)), "one in another"),
        (&format!("{{{{ x{} }}}}", ".a".repeat(900)), "one in another"),
        (&format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(400)), "one in another"),
    ];
    let mut failures = Vec::new();
    for (template, said) in rows {
        let got = rendered(template, &json!([{"role": "user", "content": "x"}]), &Map::new(), &json!({}), 0);
        if !got.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsupported && e.to_string().contains(said)) {
            failures.push(format!("{}: {got:.200?}", &template[..template.len().min(80)]));
        }
    }
    show(failures, rows.len());
}

#[test]
fn cut_and_changed_templates_never_panic() {
    let cases = golden("cases.json");
    let conversation = &cases["conversations"][3];
    let more = conversation["more"].as_object().unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jinja") {
            continue;
        }
        let template = std::fs::read_to_string(path).unwrap();
        let chars: Vec<char> = template.chars().collect();
        for at in (0..chars.len()).step_by(7) {
            let cut: String = chars[..at].iter().collect();
            let without: String = chars[..at].iter().chain(&chars[at + 1..]).collect();
            let doubled: String = chars[..=at].iter().chain(&chars[at..]).collect();
            for changed in [cut, without, doubled] {
                let _ = rendered(&changed, &conversation["messages"], more, &cases["special"], 0);
            }
        }
    }
}

#[test]
fn without_a_template_messages_are_lines() {
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}
    ]);
    assert_eq!(plain(messages.as_array().unwrap(), true), "system: Be brief.\nuser: Hi\nassistant:");
}
