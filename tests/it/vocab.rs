//! Tokenizers into GGUF keys and back, against llama.cpp's converter and the tokenizers library.
//!
//! The golden holds small tokenizers of every kind with the keys that the reference converter makes of them, and how
//! published tokenizers cut text, checked against llama.cpp (`testdata/make/vocab.py`).

use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::checkpoint::{FileId, Meta, MetaValue};
use hoist::transform::vocab::{CHAT_TEMPLATE, Options, ToGguf, to_gguf, to_hf};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Where our keys differ from the converter's on purpose: case, key, what differs, why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "sentencepiece-json",
        "scores",
        "the converter gives every token −1000, so that the engine merges from the left",
    ),
    ("sentencepiece-json", "token_type", "`<unk>` is unknown, as in a SentencePiece file, and not control"),
    (
        "gemma",
        "token_type",
        "`<start_of_turn>` is an added token of tokenizer.json; the converter reads tokenizer_config.json only",
    ),
    ("gemma", "tokens", "likewise: the converter has padding there"),
    ("gemma", "scores", "likewise"),
    (
        "qwen2",
        "tokens",
        "transformers adds `<|endoftext|>` to every tokenizer of this model type; tokenizer.json has none",
    ),
    ("qwen2", "token_type", "likewise"),
    ("unigram", "tokens", "the converter calls `<mask>` padding, and later padding by the wrong numbers"),
    ("unigram", "scores", "likewise"),
    ("unigram", "token_type", "likewise"),
];

/// Names under which the engine does not quite cut as the tokenizer of that name: how many texts are alike, and why.
const ENGINE_EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "falcon",
    "23 of 25",
    "the engine has no step for digits (`Ġ12` stays whole, in a vocabulary that has it), and digits among the characters \
     that stand for bytes (`¹`) are none to it",
)];

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(testdata("golden/vocab.json")).unwrap()).unwrap()
}

type FileMap = BTreeMap<String, Vec<u8>>;

/// A case's files, options and expected keys.
struct Case {
    name: String,
    arch: String,
    rows: u64,
    files: FileMap,
    keys: Vec<(String, Value)>,
}

fn cases() -> Vec<Case> {
    let golden = golden();
    let one = |(name, case): (&String, &Value)| {
        let text = case["files"].as_object().unwrap().iter();
        let mut files: FileMap =
            text.map(|(f, t)| (f.clone(), t.as_str().unwrap().as_bytes().to_vec())).collect();
        for (file, data) in case["binary"].as_object().unwrap() {
            files.insert(file.clone(), base64(data.as_str().unwrap()));
        }
        let key = |entry: &Value| (entry[0].as_str().unwrap().to_string(), json!([entry[1], entry[2]]));
        Case {
            name: name.clone(),
            arch: case["arch"].as_str().unwrap().to_string(),
            rows: case["rows"].as_u64().unwrap(),
            files,
            keys: case["keys"].as_array().unwrap().iter().map(key).collect(),
        }
    };
    golden["cases"].as_object().unwrap().iter().map(one).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&d| d == c)
    };
    let bits: Vec<usize> = text.bytes().filter_map(digit).collect();
    let word = |four: &[usize]| {
        let n = four.iter().chain([0, 0].iter()).take(4).fold(0, |n, d| n << 6 | d);
        [(n >> 16) as u8, (n >> 8) as u8, n as u8][..four.len() - 1].to_vec()
    };
    bits.chunks(4).flat_map(word).collect()
}

fn encode64(bytes: &[u8]) -> String {
    let digit =
        |n: usize| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[n & 63] as char;
    let four = |three: &[u8]| {
        let n = three.iter().chain([0, 0].iter()).take(3).fold(0usize, |n, &b| n << 8 | b as usize);
        let text: String = [18, 12, 6, 0].iter().take(three.len() + 1).map(|s| digit(n >> s)).collect();
        format!("{text:=<4}")
    };
    bytes.chunks(3).map(four).collect()
}

/// A value as the golden writes it: its type, and the value.
fn plain(value: &MetaValue) -> Value {
    match value {
        MetaValue::U32(n) => json!(["u32", n]),
        MetaValue::Bool(b) => json!(["bool", b]),
        MetaValue::Text(_) => json!(["string", value.as_str().unwrap()]),
        MetaValue::Array(array) => {
            let items = array.items().map(|item| match item {
                MetaValue::F32(x) => json!(f64::from(x)),
                MetaValue::Text(_) => json!(item.as_str().unwrap()),
                other => json!(other.as_i128().unwrap() as i64),
            });
            let items = match array.kind.name() {
                "u8" => json!(encode64(&array.bytes)),
                _ => Value::Array(items.collect()),
            };
            json!([format!("array {}", array.kind.name()), items])
        }
        other => panic!("{other:?}"),
    }
}

fn convert(files: &FileMap, arch: &str, rows: u64, pre: Option<&str>) -> hoist::Result<ToGguf> {
    let config = files.get("config.json").map_or(Value::Null, |bytes| serde_json::from_slice(bytes).unwrap());
    let names: Vec<String> = files.keys().cloned().collect();
    let options =
        Options { arch, config: &config, generation_config: None, embedding_rows: rows, pre, names: &names };
    to_gguf(&|name| Ok(files.get(name).cloned()), &options)
}

fn meta(keys: Vec<(String, MetaValue)>) -> Meta {
    Meta { entries: keys.into_iter().map(|(key, value)| (key, value, FileId(0))).collect() }
}

#[test]
fn keys_equal_the_reference_converters() {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for case in cases() {
        let ours = convert(&case.files, &case.arch, case.rows, None)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let ours: Vec<(String, Value)> =
            ours.keys.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
        let names = |keys: &[(String, Value)]| keys.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        if names(&ours) != names(&case.keys) {
            wrong.push(format!("{}: keys {:?}\n  for {:?}", case.name, names(&ours), names(&case.keys)));
            continue;
        }
        for ((key, ours), (_, theirs)) in ours.iter().zip(&case.keys) {
            let short = key.trim_start_matches("tokenizer.ggml.");
            let listed = DIFFERENCES.iter().any(|(name, key, _)| *name == case.name && *key == short);
            match (ours == theirs, listed) {
                (true, false) => {}
                (false, true) => _ = met.insert((case.name.clone(), short.to_string())),
                (true, true) => {
                    wrong.push(format!("{} {key} equals, though a difference is listed", case.name))
                }
                (false, false) => wrong.push(format!("{} {key}:\n  {ours}\n  {theirs}", case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met.len(), DIFFERENCES.len(), "a listed difference was not met");
}

/// What the listed differences are, to the token.
#[test]
fn differences_are_what_they_are_said_to_be() {
    let case = |name: &str| cases().into_iter().find(|case| case.name == name).unwrap();
    let key = |keys: &[(String, MetaValue)], name: &str| {
        let name = format!("tokenizer.ggml.{name}");
        plain(&keys.iter().find(|(key, _)| *key == name).unwrap().1)[1].clone()
    };
    let theirs = |case: &Case, name: &str| {
        case.keys.iter().find(|(key, _)| key.ends_with(&format!(".{name}"))).unwrap().1[1].clone()
    };
    let differing = |ours: &Value, theirs: &Value| -> Vec<(usize, Value)> {
        let pairs = ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()).enumerate();
        pairs.filter(|(_, (a, b))| a != b).map(|(id, (a, _))| (id, a.clone())).collect()
    };

    let unigram = case("unigram");
    let ours = convert(&unigram.files, "bert", unigram.rows, None).unwrap().keys;
    let last = unigram.rows as usize - 1;
    assert_eq!(differing(&key(&ours, "tokens"), &theirs(&unigram, "tokens")), [(last, json!("<mask>"))]);
    assert_eq!(differing(&key(&ours, "token_type"), &theirs(&unigram, "token_type")), [(last, json!(3))]);

    let gemma = case("gemma");
    let ours = convert(&gemma.files, "gemma2", gemma.rows, None).unwrap().keys;
    let tokens = differing(&key(&ours, "tokens"), &theirs(&gemma, "tokens"));
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].1, "<start_of_turn>");
    assert_eq!(
        differing(&key(&ours, "token_type"), &theirs(&gemma, "token_type")),
        [(tokens[0].0, json!(3))]
    );

    // Scores fall from merge to merge, and every piece that a merge makes has one of its own.
    let spaced = case("sentencepiece-json");
    let ours = convert(&spaced.files, "llama", spaced.rows, None).unwrap().keys;
    assert_eq!(differing(&key(&ours, "token_type"), &theirs(&spaced, "token_type")), [(0, json!(2))]);
    let tokenizer: Value = serde_json::from_slice(&spaced.files["tokenizer.json"]).unwrap();
    let (tokens, scores) = (key(&ours, "tokens"), key(&ours, "scores"));
    let score = |text: &str| {
        let at = tokens.as_array().unwrap().iter().position(|t| t == text).unwrap();
        scores[at].as_f64().unwrap()
    };
    let mut made: Vec<String> = Vec::new();
    for merge in tokenizer["model"]["merges"].as_array().unwrap() {
        let text = format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        if !made.contains(&text) {
            assert!(made.last().is_none_or(|before| score(before) > score(&text)), "{text}");
            made.push(text);
        }
    }
    assert!(made.len() > 10, "{}", made.len());
}

#[test]
fn published_pre_tokenizers_are_recognised() {
    let golden = golden();
    let mut wrong = Vec::new();
    for row in golden["pre"].as_array().unwrap() {
        let mut tokenizer = byte_level();
        tokenizer["pre_tokenizer"] = row["pre_tokenizer"].clone();
        tokenizer["model"]["ignore_merges"] = row["ignore_merges"].clone();
        let files = FileMap::from([("tokenizer.json".into(), tokenizer.to_string().into_bytes())]);
        match convert(&files, row["arch"].as_str().unwrap(), 4, None) {
            Ok(out) if out.summary == format!("BPE 4 pre {}", row["name"].as_str().unwrap()) => {}
            Ok(out) => wrong.push(format!("{}: {} for {}", row["model"], out.summary, row["name"])),
            Err(e) => wrong.push(format!("{}: {e}", row["model"])),
        }
        let alike = match ENGINE_EXCEPTIONS.iter().find(|(name, ..)| row["name"] == *name) {
            Some((_, alike, _)) => alike,
            None => "25 of 25",
        };
        assert_eq!(row["alike"], alike, "{}", row["model"]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A byte-level tokenizer of four tokens.
fn byte_level() -> Value {
    json!({
        "added_tokens": [{"id": 3, "content": "<|end|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    })
}

/// The rebuilt tokenizer.json says what the original said.
#[test]
fn back_to_tokenizer_json() {
    let mut wrong = Vec::new();
    for case in cases() {
        let keys = convert(&case.files, &case.arch, case.rows, None).unwrap().keys;
        let again = keys.clone();
        let out = to_hf(&meta(keys), &case.arch).unwrap();
        let files: FileMap = out.files.into_iter().collect();
        let original: Value = serde_json::from_slice(&case.files["tokenizer.json"]).unwrap();
        let rebuilt: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
        let mut check = |what: &str, ours: Value, theirs: Value| {
            if ours != theirs {
                wrong.push(format!("{} {what}:\n  {ours}\n  {theirs}", case.name));
            }
        };
        for part in ["pre_tokenizer", "normalizer", "decoder"] {
            check(part, essence(&rebuilt[part]), essence(&original[part]));
        }
        // Ids of added tokens that the original's model does not have are the library's to give; ours are all there.
        let added = |tokenizer: &Value| -> BTreeMap<u64, Value> {
            let list = tokenizer["added_tokens"].as_array().unwrap().iter();
            list.map(|t| (t["id"].as_u64().unwrap(), json!([t["content"], t["special"]]))).collect()
        };
        let mut expected = added(&original);
        for (_, token) in expected.iter_mut() {
            // GGUF's user-defined tokens are plain text.
            token[0] =
                json!(token[0].as_str().unwrap().replace('▁', if token[1] == true { "▁" } else { " " }));
        }
        check("added tokens", json!(added(&rebuilt)), json!(expected));
        let vocab = |tokenizer: &Value| -> BTreeMap<String, Value> {
            let texts: BTreeMap<u64, Value> = added(tokenizer);
            let mut all: BTreeMap<String, Value> = match &tokenizer["model"]["vocab"] {
                Value::Object(map) => map.iter().map(|(text, id)| (text.clone(), id.clone())).collect(),
                list => list
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|e| (e[0].as_str().unwrap().into(), e[1].clone()))
                    .collect(),
            };
            all.retain(|text, _| !texts.values().any(|token| token[0] == **text));
            all
        };
        check("vocabulary", json!(vocab(&rebuilt)), json!(vocab(&original)));
        let merges = |tokenizer: &Value| -> Vec<String> {
            let text = |merge: &Value| match merge {
                Value::String(text) => text.clone(),
                pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            };
            tokenizer["model"]["merges"].as_array().map_or(Vec::new(), |list| list.iter().map(text).collect())
        };
        check("merges", json!(merges(&rebuilt)), json!(merges(&original)));
        for key in ["type", "unk_token", "unk_id", "byte_fallback", "fuse_unk", "ignore_merges"] {
            let value = |tokenizer: &Value| tokenizer["model"].get(key).cloned().unwrap_or(Value::Null);
            check(key, value(&rebuilt), value(&original));
        }
        // And forth again: the same keys.
        let mut files = files;
        files.insert("config.json".into(), case.files["config.json"].clone());
        let forth = convert(&files, &case.arch, case.rows, None)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name))
            .keys;
        for name in [
            "tokens",
            "token_type",
            "merges",
            "model",
            "pre",
            "bos_token_id",
            "eos_token_id",
            "add_bos_token",
        ] {
            let name = format!("tokenizer.ggml.{name}");
            let find = |keys: &[(String, MetaValue)]| {
                keys.iter().find(|(key, _)| *key == name).map_or(Value::Null, |(_, v)| plain(v))
            };
            // An unknown token that a config calls special is control in one and unknown in the other.
            let kinds = |value: Value| match name.ends_with("token_type") {
                true => json!(value.to_string().replace('2', "3")),
                false => value,
            };
            check(&format!("{name} forth again"), kinds(find(&forth)), kinds(find(&again)));
        }
        let template =
            again.iter().find(|(key, _)| key == CHAT_TEMPLATE).map(|(_, v)| v.as_text().unwrap().to_vec());
        assert_eq!(files.get("chat_template.jinja"), template.as_ref(), "{}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A part of tokenizer.json without what changes offsets only, and with digits spelled out.
fn essence(part: &Value) -> Value {
    match part {
        Value::Object(map) if map.get("type") == Some(&json!("Digits")) => {
            json!({"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false})
        }
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| *key != "trim_offsets")
            .map(|(key, value)| (key.clone(), essence(value)))
            .collect(),
        Value::Array(list) => list.iter().map(essence).collect(),
        other => other.clone(),
    }
}

/// Changes of the small tokenizer, and what is said of them: the error, or a note.
#[test]
fn what_is_refused_and_what_is_said() {
    type Change = fn(&mut Value, &mut FileMap);
    let rows: &[(&str, Change, u64, Option<&str>, Result<&str, (ErrorKind, &str)>)] = &[
        ("nothing", |_, _| {}, 4, None, Ok("")),
        ("padding", |_, _| {}, 9, None, Ok("")),
        (
            "rows",
            |_, _| {},
            3,
            None,
            Err((ErrorKind::BadInput, "token of id 3 but the embedding has 3 rows")),
        ),
        ("pre", |_, _| {}, 4, Some("llama-bpe"), Ok("cuts text as `gpt-2` does; `llama-bpe` was asked for")),
        (
            "no pre",
            |_, _| {},
            4,
            Some("lama-bpe"),
            Err((ErrorKind::Usage, "no pre-tokenizer is called `lama-bpe`")),
        ),
        (
            "unknown cut",
            |t, _| {
                t["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated"}, {"type": "ByteLevel", "use_regex": false}]})
            },
            4,
            None,
            Err((ErrorKind::Unsupported, "cuts text in a way that llama.cpp has no name for")),
        ),
        (
            "lower",
            |t, _| t["normalizer"] = json!({"type": "NFC"}),
            4,
            None,
            Ok("`NFC` of tokenizer.json has no counterpart"),
        ),
        (
            "suffix",
            |t, _| t["model"]["end_of_word_suffix"] = json!("</w>"),
            4,
            None,
            Err((ErrorKind::Unsupported, "`</w>`")),
        ),
        (
            "no merges",
            |t, _| t["model"]["merges"] = json!([]),
            4,
            None,
            Err((ErrorKind::BadInput, "no merges")),
        ),
        (
            "words",
            |t, _| t["model"]["type"] = json!("WordLevel"),
            4,
            None,
            Err((ErrorKind::Unsupported, "`WordLevel`")),
        ),
        (
            "repeat",
            |t, _| {
                t["added_tokens"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"id": 5, "content": "<|end|>", "special": true}))
            },
            6,
            None,
            Ok("1 token(s) whose text another token has, the first of id 5, became padding"),
        ),
        (
            "id out of range",
            |_, f| {
                _ = f
                    .insert("config.json".into(), br#"{"pad_token_id": 70, "eos_token_id": [3, 2]}"#.to_vec())
            },
            4,
            None,
            Ok("`pad` token 70 is left out: there are 4 tokens"),
        ),
        (
            "no template",
            |_, f| _ = f.insert("config.json".into(), br#"{"architectures": ["LlamaForCausalLM"]}"#.to_vec()),
            4,
            None,
            Ok("there is no chat template"),
        ),
        (
            "two templates",
            |_, f| {
                f.insert("chat_template.jinja".into(), b"new".to_vec());
                f.insert("tokenizer_config.json".into(), br#"{"chat_template": "old"}"#.to_vec());
            },
            4,
            None,
            Ok("`tokenizer_config.json` holds another chat template than `chat_template.jinja`"),
        ),
        (
            "damaged",
            |_, f| _ = f.insert("tokenizer.json".into(), b"{\"model\": {".to_vec()),
            4,
            None,
            Err((ErrorKind::BadInput, "tokenizer.json: is not a tokenizer")),
        ),
        (
            "damaged config",
            |_, f| _ = f.insert("tokenizer_config.json".into(), b"{".to_vec()),
            4,
            None,
            Err((ErrorKind::BadInput, "tokenizer_config.json: is not JSON")),
        ),
        ("nothing there", |_, f| f.clear(), 4, None, Err((ErrorKind::NotFound, "no tokenizer"))),
        (
            "tiktoken",
            |_, f| {
                f.clear();
                f.insert("tokenizer.model".into(), b"IQ== 0\nIg== 1\n".to_vec());
            },
            4,
            None,
            Err((ErrorKind::Unsupported, "tokenizer.model: is not a SentencePiece model")),
        ),
        ("huge embedding", |_, _| {}, u64::MAX, None, Err((ErrorKind::Unsupported, "is not written"))),
    ];
    for (name, change, rows, pre, expected) in rows {
        let mut tokenizer = byte_level();
        let mut files = FileMap::new();
        change(&mut tokenizer, &mut files);
        let replaced = files.contains_key("tokenizer.json") || ["nothing there", "tiktoken"].contains(name);
        if !replaced {
            files.insert("tokenizer.json".into(), tokenizer.to_string().into_bytes());
        }
        match (convert(&files, "llama", *rows, *pre), expected) {
            (Ok(out), Ok("")) => assert!(out.notes.is_empty(), "{name}: {:?}", out.notes),
            (Ok(out), Ok(note)) => {
                assert!(out.notes.iter().any(|n| n.contains(note)), "{name}: {:?}", out.notes)
            }
            (Err(e), Err((kind, text))) => {
                assert_eq!(e.kind(), *kind, "{name}: {e}");
                assert!(e.to_string().contains(text), "{name}: {e}");
            }
            (out, _) => panic!("{name}: {:?}", out.map(|out| out.summary)),
        }
    }
}

/// The files from before tokenizer.json give the same tokens and the same special ids.
#[test]
fn older_files_mean_the_same() {
    let mut wrong = Vec::new();
    for (name, arch, keep) in [
        ("word-piece", "bert", "vocab.txt"),
        ("unigram", "bert", "sentencepiece.bpe.model"),
        ("sentencepiece", "llama", "tokenizer.model"),
        ("qwen2", "qwen2", "vocab.json"),
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let mut files = case.files.clone();
        let tokenizer: Value = serde_json::from_slice(&files.remove("tokenizer.json").unwrap()).unwrap();
        if keep == "vocab.json" {
            let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
            let lines = merges.map(|m| format!("{} {}\n", m[0].as_str().unwrap(), m[1].as_str().unwrap()));
            let added = tokenizer["added_tokens"].as_array().unwrap().iter();
            let added: serde_json::Map<String, Value> =
                added.map(|t| (t["content"].as_str().unwrap().to_string(), t["id"].clone())).collect();
            files.insert("vocab.json".into(), tokenizer["model"]["vocab"].to_string().into_bytes());
            files.insert(
                "merges.txt".into(),
                lines.fold("#version: 0.2\n".to_string(), |all, line| all + &line).into_bytes(),
            );
            files.insert("added_tokens.json".into(), Value::Object(added).to_string().into_bytes());
            let config = String::from_utf8(files["tokenizer_config.json"].clone()).unwrap();
            let config = config.replace("PreTrainedTokenizerFast", "Qwen2Tokenizer");
            files.insert("tokenizer_config.json".into(), config.into_bytes());
        }
        assert!(files.contains_key(keep), "{name}");
        let whole = convert(&case.files, arch, case.rows, None).unwrap().keys;
        let older = convert(&files, arch, case.rows, None).unwrap_or_else(|e| panic!("{name}: {e}")).keys;
        for key in [
            "model",
            "pre",
            "tokens",
            "token_type",
            "scores",
            "merges",
            "bos_token_id",
            "eos_token_id",
            "padding_token_id",
        ] {
            let key = format!("tokenizer.ggml.{key}");
            let find =
                |keys: &[(String, MetaValue)]| keys.iter().find(|(k, _)| *k == key).map(|(_, v)| plain(v));
            if find(&whole) != find(&older) {
                wrong.push(format!("{name} {key}:\n  {:?}\n  {:?}", find(&older), find(&whole)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A tokenizer.model that tokenizer.json was not made of is not used.
#[test]
fn tokenizer_json_is_the_truth() {
    let mut case = cases().into_iter().find(|case| case.name == "sentencepiece").unwrap();
    let out = convert(&case.files, "llama", case.rows, None).unwrap();
    assert!(!out.notes.iter().any(|note| note.contains("another vocabulary")), "{:?}", out.notes);
    let mut tokenizer: Value = serde_json::from_slice(&case.files["tokenizer.json"]).unwrap();
    let id = case.rows - 1;
    tokenizer["model"]["vocab"]["th"] = json!(id);
    case.files.insert("tokenizer.json".into(), tokenizer.to_string().into_bytes());
    let out = convert(&case.files, "llama", case.rows, None).unwrap();
    assert!(out.notes.iter().any(|note| note.contains("another vocabulary")), "{:?}", out.notes);
    let tokens = out.keys.iter().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
    assert_eq!(plain(&tokens.1)[1][id as usize], "th");
}

/// Templates from every place; named ones become keys of their own.
#[test]
fn chat_templates() {
    let config =
        br#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "rag-1", "template": "R"}]}"#;
    let rows: &[(&[(&str, &[u8])], Option<&str>, &[(&str, &str)])] = &[
        (&[], None, &[]),
        (&[("chat_template.json", br#"{"chat_template": "J"}"#)], Some("chat_template.json"), &[("", "J")]),
        (&[("tokenizer_config.json", config)], Some("tokenizer_config.json"), &[(".rag_1", "R"), ("", "D")]),
        (
            &[
                ("chat_template.jinja", b"X"),
                ("tokenizer_config.json", config),
                ("additional_chat_templates/tool_use.jinja", b"T"),
            ],
            Some("chat_template.jinja"),
            &[(".tool_use", "T"), ("", "X")],
        ),
    ];
    for (files, from, expected) in rows {
        let mut all: FileMap = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        all.insert("tokenizer.json".into(), byte_level().to_string().into_bytes());
        let out = convert(&all, "llama", 4, None).unwrap();
        assert_eq!(out.template.as_deref(), *from);
        let keys: Vec<(String, String)> = out
            .keys
            .iter()
            .filter(|(key, value)| key.starts_with(CHAT_TEMPLATE) && value.as_text().is_some())
            .map(|(key, value)| (key[CHAT_TEMPLATE.len()..].to_string(), value.as_str().unwrap().to_string()))
            .collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(keys, expected);
    }
}

/// Bytes of tokenizer files changed at random: an answer or an error, never a panic.
#[test]
fn mutated_files_do_not_crash() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut roll = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below.max(1) as u64) as usize
    };
    for case in cases() {
        for _ in 0..60 {
            let mut files = case.files.clone();
            let name = files.keys().nth(roll(files.len())).unwrap().clone();
            let bytes = files.get_mut(&name).unwrap();
            for _ in 0..1 + roll(4) {
                match roll(3) {
                    0 => bytes.truncate(roll(bytes.len())),
                    1 if !bytes.is_empty() => {
                        let at = roll(bytes.len());
                        bytes[at] = roll(256) as u8;
                    }
                    _ => {
                        let at = roll(bytes.len() + 1);
                        let digits = b"0123456789\"{}[]-"[roll(16)];
                        bytes.insert(at, digits);
                    }
                }
            }
            let config = files
                .get("config.json")
                .and_then(|bytes| serde_json::from_slice(bytes).ok())
                .unwrap_or(Value::Null);
            let options = Options {
                arch: &case.arch,
                config: &config,
                generation_config: Some(&config),
                embedding_rows: case.rows + roll(3) as u64,
                pre: None,
                names: &[],
            };
            if let Ok(out) = to_gguf(&|name| Ok(files.get(name).cloned()), &options) {
                let mut keys = out.keys;
                if roll(2) == 0 {
                    let at = roll(keys.len());
                    keys.remove(at);
                }
                if roll(2) == 0 {
                    let at = roll(keys.len());
                    keys[at].1 = MetaValue::U32(roll(1000) as u32);
                }
                _ = to_hf(&meta(keys), &case.arch);
            }
        }
    }
}
