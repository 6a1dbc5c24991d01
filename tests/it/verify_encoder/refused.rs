//! What a model is for, from the files beside its weights; what is refused, and how.

use super::{hold, names, open, spec, write};
use hoist::convert::{Options, convert};
use hoist::error::ErrorKind::{self, BadInput, CheckFailed, NotFound, Unsupported};
use hoist::transform::arch::forward;
use hoist::transform::task::{Embedding, Pooling, Probability, Task, TopActivation, max_length, of};
use hoist::verify::encoder::{Batch, Encoder};
use hoist::verify::subject::Subject;
use hoist::verify::weights::Weights;
use serde_json::{Value as Json, json};

/// The task of a config and of files beside it, given as one object.
fn task(config: &Json, files: &Json) -> hoist::Result<Task> {
    of(config, &|name| Ok(files.get(name).cloned()))
}

fn modules(kinds: &[(&str, &str)]) -> Json {
    let one = |(path, kind): &(&str, &str)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    Json::Array(kinds.iter().map(one).collect())
}

#[test]
fn modules_outrank_the_class() {
    let bert = json!({"architectures": ["BertForSequenceClassification"], "model_type": "bert"});
    let plain = |pooling| Some(Task::Embedding(Embedding { pooling, dense: Vec::new(), normalise: false }));
    let two = modules(&[("", "Transformer"), ("1_Pooling", "Pooling")]);
    let dense = |extra: Json| {
        let mut config = json!({"in_features": 4, "out_features": 2, "bias": false});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({
            "modules.json": modules(&[("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]),
            "1_Pooling/config.json": {"pooling_mode": "mean"},
            "2_Dense/config.json": config,
        })
    };
    let pooled = |pooling: Json| json!({"modules.json": two, "1_Pooling/config.json": pooling});
    let rows: Vec<(Json, Option<Task>, Option<ErrorKind>)> = vec![
        (
            pooled(json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})),
            plain(Pooling::Cls),
            None,
        ),
        (
            pooled(json!({"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": false})),
            plain(Pooling::Last),
            None,
        ),
        (pooled(json!({})), plain(Pooling::Mean), None),
        (pooled(json!({"pooling_mode": "max"})), plain(Pooling::Max), None),
        (pooled(json!({"pooling_mode": ["mean_sqrt_len_tokens"]})), plain(Pooling::MeanSqrt), None),
        // Two side by side: the mean is on where nobody says that it is off.
        (pooled(json!({"pooling_mode_cls_token": true})), None, Some(Unsupported)),
        (pooled(json!({"pooling_mode": "mean+max"})), None, Some(Unsupported)),
        (pooled(json!({"pooling_mode": "weightedmean"})), None, Some(Unsupported)),
        (pooled(json!({"pooling_mode": "attention"})), None, Some(Unsupported)),
        (pooled(json!({"pooling_mode": 3})), None, Some(BadInput)),
        (pooled(json!({"pooling_mode_mean_tokens": "yes"})), None, Some(BadInput)),
        (pooled(json!({"pooling_mode_mean_tokens": false})), None, Some(BadInput)),
        (pooled(json!([])), None, Some(BadInput)),
        (json!({"modules.json": two}), None, Some(NotFound)),
        (json!({"modules.json": {}}), None, Some(BadInput)),
        (json!({"modules.json": [{}]}), None, Some(BadInput)),
        (json!({"modules.json": modules(&[("", "Transformer"), ("../x", "Pooling")])}), None, Some(BadInput)),
        (json!({"modules.json": modules(&[("", "Transformer"), ("", "Pooling")])}), None, Some(BadInput)),
        (
            json!({"modules.json": modules(&[("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")])}),
            None,
            Some(Unsupported),
        ),
        (json!({"modules.json": modules(&[("", "Transformer"), ("1", "CNN")])}), None, Some(Unsupported)),
        (
            json!({"modules.json": modules(&[("", "WordEmbeddings"), ("1", "Pooling")])}),
            None,
            Some(Unsupported),
        ),
        (
            json!({"modules.json": modules(&[("", "Transformer"), ("1", "Normalize")])}),
            None,
            Some(Unsupported),
        ),
        (json!({"modules.json": modules(&[("", "Transformer"), ("1", "Dense")])}), None, Some(Unsupported)),
        (dense(json!({"activation_function": "torch.nn.modules.activation.GELU"})), None, Some(Unsupported)),
        (dense(json!({"use_residual": true})), None, Some(Unsupported)),
        (dense(json!({"module_input_name": "token_embeddings"})), None, Some(Unsupported)),
        (dense(json!({"in_features": -1})), None, Some(BadInput)),
        (dense(json!({"bias": 1})), None, Some(BadInput)),
    ];
    let mut wrong = Vec::new();
    for (files, expected, refused) in rows {
        let found = task(&bert, &files);
        let fits = match (&found, &expected, refused) {
            (Ok(found), Some(expected), None) => found == expected,
            (Err(e), None, Some(kind)) => e.kind() == kind,
            _ => false,
        };
        if !fits {
            wrong.push(format!("{files}: {found:?}"));
        }
    }
    // Only a transformer: the class says what for.
    let alone = task(&bert, &json!({"modules.json": modules(&[("", "Transformer")])}));
    assert!(matches!(alone, Ok(Task::Sequence(_))), "{alone:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a row expects: the kind of task by its first letter, or a refusal.
#[test]
fn classes_say_the_task() {
    let mut wrong = Vec::new();
    for (class, model_type, expected) in [
        ("BertModel", "bert", Ok('h')),
        ("BertForMaskedLM", "bert", Ok('h')),
        ("BertForSequenceClassification", "bert", Ok('s')),
        ("BertForTokenClassification", "bert", Ok('t')),
        ("BertForQuestionAnswering", "bert", Err(Unsupported)),
        ("BertForNextSentencePrediction", "bert", Err(Unsupported)),
        ("BertLMHeadModel", "bert", Err(Unsupported)),
        ("XLMRobertaForTokenClassification", "xlm-roberta", Ok('t')),
        ("CamembertForSequenceClassification", "camembert", Ok('s')),
        ("DistilBertForSequenceClassification", "distilbert", Ok('s')),
        ("ModernBertForTokenClassification", "modernbert", Ok('t')),
        ("NomicBertModel", "nomic_bert", Ok('h')),
        ("LlamaForCausalLM", "llama", Ok('c')),
        ("LlamaForSequenceClassification", "llama", Ok('s')),
        ("Qwen3Model", "qwen3", Ok('h')),
        ("GPT2LMHeadModel", "gpt2", Ok('c')),
        ("GPT2DoubleHeadsModel", "gpt2", Err(Unsupported)),
        ("XForSequenceClassification", "bert", Err(Unsupported)),
        ("ForSequenceClassification", "bert", Err(Unsupported)),
        ("", "distilbert", Ok('h')),
        ("", "qwen3", Ok('c')),
        ("", "electra", Err(Unsupported)),
    ] {
        let mut config = json!({"model_type": model_type});
        if !class.is_empty() {
            config["architectures"] = json!([class]);
        }
        let found = task(&config, &json!({}));
        let letter = found.as_ref().map_err(hoist::Error::kind).map(|task| match task {
            Task::Causal => 'c',
            Task::Hidden => 'h',
            Task::Sequence(_) => 's',
            Task::Token(_) => 't',
            Task::Embedding(_) => 'e',
        });
        if letter != expected {
            wrong.push(format!("{class} {model_type}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn classifiers_are_described() {
    let of = |extra: Json| {
        let mut config =
            json!({"architectures": ["ModernBertForSequenceClassification"], "model_type": "modernbert"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        match task(&config, &json!({})) {
            Ok(Task::Sequence(classes)) => Ok(classes),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e.kind()),
        }
    };
    let usual = of(json!({})).unwrap();
    assert_eq!(usual.labels, ["LABEL_0", "LABEL_1"]);
    let facts = (usual.pooling, usual.dense, usual.norm, usual.probability);
    assert_eq!(facts, (Some(Pooling::Cls), Some(TopActivation::Gelu), Some(1e-5), Probability::Softmax));
    let said = of(
        json!({"classifier_pooling": "mean", "classifier_activation": "silu", "norm_eps": 1e-6, "num_labels": 1}),
    );
    let said = said.unwrap();
    let facts = (said.pooling, said.dense, said.norm, said.probability);
    assert_eq!(facts, (Some(Pooling::Mean), Some(TopActivation::Silu), Some(1e-6), Probability::Sigmoid));
    let eleven: serde_json::Map<String, Json> =
        (0..11).rev().map(|n| (n.to_string(), json!(format!("c{n}")))).collect();
    let labels = of(json!({"id2label": eleven})).unwrap().labels;
    assert_eq!((labels.len(), labels[2].as_str(), labels[10].as_str()), (11, "c2", "c10"));
    for (extra, expected) in [
        (json!({"problem_type": "multi_label_classification"}), Probability::Sigmoid),
        (json!({"problem_type": "regression", "num_labels": 1}), Probability::Identity),
        (json!({"num_labels": 3}), Probability::Softmax),
        (
            json!({"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
            Probability::Identity,
        ),
        (
            json!({"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}),
            Probability::Sigmoid,
        ),
    ] {
        assert_eq!(of(extra.clone()).unwrap().probability, expected, "{extra}");
    }
    for (extra, expected) in [
        (json!({"classifier_pooling": "max"}), Unsupported),
        (json!({"classifier_activation": "mish"}), Unsupported),
        (json!({"classifier_activation": 1}), BadInput),
        (json!({"norm_eps": "small"}), BadInput),
        (json!({"id2label": {"0": "a", "2": "b"}}), BadInput),
        (json!({"id2label": {"0": 1}}), BadInput),
        (json!({"id2label": {}}), BadInput),
        (json!({"id2label": ["a"]}), BadInput),
        (json!({"num_labels": 1e9}), BadInput),
        (json!({"num_labels": -1}), BadInput),
        (json!({"sentence_transformers": {"activation_fn": "torch.nn.Mish"}}), Unsupported),
    ] {
        assert_eq!(of(extra.clone()).unwrap_err(), expected, "{extra}");
    }
}

#[test]
fn probabilities_are_made() {
    for (probability, expected) in [
        (Probability::Identity, [0.0, 1000.0]),
        (Probability::Sigmoid, [0.5, 1.0]),
        (Probability::Softmax, [0.0, 1.0]),
    ] {
        assert_eq!(probability.of(&[0.0, 1000.0]), expected);
    }
}

#[test]
fn lengths_are_the_least_that_is_said() {
    let limit = |config: Json, tokenizer: Json, sentences: Json| {
        max_length(&config, Some(&tokenizer), Some(&sentences)).unwrap()
    };
    let (bert, roberta) =
        (json!({"model_type": "bert"}), json!({"model_type": "roberta", "max_position_embeddings": 514}));
    assert_eq!(limit(bert.clone(), json!({}), json!({})), Some(512));
    assert_eq!(
        limit(bert.clone(), json!({"model_max_length": 1e30}), json!({"max_seq_length": 256})),
        Some(256)
    );
    assert_eq!(limit(bert, json!({"model_max_length": 128}), json!({"max_seq_length": null})), Some(128));
    assert_eq!(limit(roberta, json!({}), json!({})), Some(512));
    let nomic = json!({"model_type": "nomic_bert", "n_positions": 8192});
    assert_eq!(limit(nomic, json!({"model_max_length": 8192}), json!({})), Some(8192));
    assert_eq!(limit(json!({"model_type": "llama"}), json!({}), json!({})), None);
}

/// nomic's own code would obey these; here only what the row knows is computed.
#[test]
fn code_of_a_repo_is_no_reason_to_guess() {
    let base = Json::Object(spec("nomic").files["config.json"].as_object().unwrap().clone());
    forward::of_config(&base).unwrap();
    let mut wrong = Vec::new();
    for (key, value) in [
        ("rotary_emb_fraction", json!(0.5)),
        ("rotary_emb_fraction", Json::Null),
        ("rotary_emb_interleaved", json!(true)),
        ("rotary_scaling_factor", json!(2.0)),
        ("rotary_emb_scale_base", json!(512)),
        ("prenorm", json!(true)),
        ("parallel_block", json!(true)),
        ("use_rms_norm", json!(true)),
        ("causal", json!(true)),
        ("activation_function", json!("gelu")),
        ("moe_every_n_layers", json!(2)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
    ] {
        let mut config = base.clone();
        config[key] = value.clone();
        match forward::of_config(&config) {
            Err(e) if e.kind() == Unsupported => {}
            other => wrong.push(format!("{key} {value}: {other:?}")),
        }
    }
    let mut config = base.clone();
    config["prenorm"] = json!(true);
    let message = forward::of_config(&config).unwrap_err().to_string();
    assert!(message.contains("`prenorm` is `true`") && message.contains("never run"), "{message}");
    for (model, key, value, kind) in [
        ("bert", "position_embedding_type", json!("relative_key"), Unsupported),
        ("bert", "is_decoder", json!(true), Unsupported),
        ("bert", "hidden_act", json!("mish"), Unsupported),
        ("bert", "layer_norm_eps", json!("x"), BadInput),
        ("bert", "num_attention_heads", json!(5), BadInput),
        ("bert", "num_attention_heads", json!(0), BadInput),
        ("bert", "num_hidden_layers", json!(4_000_000_000u64), BadInput),
        ("bert", "rope_theta", json!(1e4), Unsupported),
        ("modernbert", "layer_types", json!(["full_attention"]), BadInput),
        (
            "modernbert",
            "layer_types",
            json!(["full_attention", "full_attention", "full_attention", "linear_attention"]),
            Unsupported,
        ),
        ("modernbert-mlm", "global_attn_every_n_layers", json!(0), BadInput),
        ("modernbert-mlm", "global_rope_theta", json!(0), BadInput),
    ] {
        let mut config = Json::Object(spec(model).files["config.json"].as_object().unwrap().clone());
        config[key] = value.clone();
        match forward::of_config(&config) {
            Err(e) if e.kind() == kind => {}
            other => wrong.push(format!("{model} {key} {value}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_gguf_is_written_of_what_has_no_form_there() {
    let convertible = [
        "bert",
        "bert-mlm",
        "roberta-sequence",
        "xlm-roberta-cross",
        "sentence-bert",
        "sentence-mean",
        "sentence-roberta",
        "sentence-qwen3",
    ];
    let mut wrong = Vec::new();
    for name in names() {
        let dir = tempfile::tempdir().unwrap();
        let source = write(&spec(&name), dir.path());
        let out = dir.path().join("out.gguf");
        let error = convert(open(&source).unwrap(), Options::new(&out)).wait().unwrap_err();
        // Those that have one come as far as the tokenizer, which is not there.
        let refused = error.to_string().contains("GGUF is written of the family")
            || error.to_string().contains("a GGUF has no place for the head");
        if refused == convertible.contains(&name.as_str())
            || refused && error.kind() != Unsupported
            || out.exists()
        {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Changes a spec and says what opening it says.
fn subject(name: &str, change: impl Fn(&mut super::Spec)) -> Result<(), (ErrorKind, String)> {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(name);
    change(&mut spec);
    let path = write(&spec, dir.path());
    let run = || {
        let subject = Subject::of(open(&path)?)?;
        let weights = Weights::new(&subject, hold())?;
        Encoder::new(&subject, &weights).map(|_| ())
    };
    run().map_err(|e| (e.kind(), e.to_string()))
}

#[test]
fn heads_that_do_not_fit_are_named() {
    let without =
        |name: &'static str| move |spec: &mut super::Spec| spec.folders[0].1.retain(|row| row.name != name);
    let reshaped = |name: &'static str, shape: &'static [usize]| {
        move |spec: &mut super::Spec| {
            let rows = spec.folders.iter_mut().flat_map(|(_, rows)| rows);
            rows.filter(|row| row.name == name).for_each(|row| row.shape = shape.to_vec());
        }
    };
    let said = |key: &'static str, value: Json| {
        move |spec: &mut super::Spec| {
            spec.files["config.json"][key] = value.clone();
        }
    };
    type Change = Box<dyn Fn(&mut super::Spec)>;
    let rows: Vec<(&str, Change, ErrorKind, &str)> = vec![
        ("bert-sequence", Box::new(without("classifier.weight")), CheckFailed, "cls.output.weight"),
        ("bert-sequence", Box::new(without("bert.pooler.dense.weight")), CheckFailed, "cls.weight"),
        (
            "bert-sequence",
            Box::new(reshaped("classifier.weight", &[4, 32])),
            CheckFailed,
            "cls.output.weight",
        ),
        ("bert-sequence", Box::new(reshaped("classifier.bias", &[4])), CheckFailed, "cls.output.bias"),
        ("bert-sequence", Box::new(said("id2label", json!({"0": "a"}))), CheckFailed, "cls.output.weight"),
        ("modernbert-sequence", Box::new(without("head.norm.weight")), CheckFailed, "cls.norm.weight"),
        ("modernbert", Box::new(without("layers.2.attn_norm.weight")), CheckFailed, "blk.2.attn_norm"),
        ("distilbert-sequence", Box::new(without("pre_classifier.weight")), CheckFailed, "cls.weight"),
        ("llama-sequence", Box::new(without("score.weight")), CheckFailed, "cls.output.weight"),
        ("nomic", Box::new(without("encoder.layers.1.mlp.fc12.weight")), CheckFailed, "fc12"),
        ("sentence-bert", Box::new(reshaped("linear.bias", &[23])), BadInput, "linear.bias"),
        (
            "sentence-bert",
            Box::new(|s: &mut super::Spec| s.folders[1].1.truncate(1)),
            BadInput,
            "linear.bias",
        ),
        (
            "sentence-bert",
            Box::new(|s: &mut super::Spec| s.folders[1].1[1].name = "linear.scale".into()),
            BadInput,
            "linear.scale",
        ),
        ("sentence-bert", Box::new(|s: &mut super::Spec| drop(s.folders.remove(1))), NotFound, "2_Dense"),
        (
            "sentence-bert",
            Box::new(|s: &mut super::Spec| s.files["2_Dense/config.json"]["in_features"] = json!(31)),
            BadInput,
            "2_Dense",
        ),
        (
            "sentence-bert",
            Box::new(|s: &mut super::Spec| s.files["3_Dense/config.json"]["in_features"] = json!(23)),
            BadInput,
            "3_Dense",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, change, kind, part) in rows {
        match subject(name, &*change) {
            Err((found, message)) if found == kind && message.contains(part) => {}
            other => wrong.push(format!("{name} {part}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn texts_that_do_not_fit_are_refused_and_neighbours_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&spec("sentence-mean"), dir.path());
    let subject = Subject::of(open(&path).unwrap()).unwrap();
    let weights = Weights::new(&subject, hold()).unwrap();
    let encoder = Encoder::new(&subject, &weights).unwrap();
    let batch =
        |ids: &[&[u32]]| Batch::new(ids.iter().map(|row| row.to_vec()).collect(), Vec::new()).unwrap();
    let long: Vec<u32> = (0..41).map(|n| 5 + n % 90).collect();
    let refused = |batch: &Batch| encoder.embed(batch).unwrap_err().to_string();
    assert!(refused(&batch(&[&[5, 512]])).contains("has 512 tokens, and a text has token 512"));
    assert!(refused(&batch(&[&long])).contains("has 40 positions, and a text has 41 tokens"));
    let types = Batch::new(vec![vec![5]], vec![vec![2]]).unwrap();
    assert!(refused(&types).contains("has 2 types of tokens"), "{}", refused(&types));
    assert!(encoder.classify(&batch(&[&[5]])).is_err() && encoder.tokens(&batch(&[&[5]])).is_err());
    encoder.embed(&batch(&[&long]).truncated(40, true)).unwrap();

    let (a, b): (&[u32], &[u32]) = (&[7, 8, 9], &[10, 11, 12, 13, 14, 15, 16]);
    let together = encoder.embed(&batch(&[a, b])).unwrap();
    for (text, together) in [a, b].into_iter().zip(&together) {
        let alone = encoder.embed(&batch(&[text])).unwrap();
        let off = alone[0].iter().zip(together).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
        assert!(off < 1e-6, "{off}");
    }
}
