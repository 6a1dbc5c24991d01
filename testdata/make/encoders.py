"""Tiny encoders with every head: what they are made of, and what transformers computes with them.

Run from the repository's root, with a Python that has torch, transformers, safetensors and numpy:

    python testdata/make/encoders.py specs          testdata/encoders/NAME.json
    python testdata/make/encoders.py goldens        testdata/golden/encoders.safetensors
    python testdata/make/encoders.py write OUT      the models themselves, to OUT/NAME/

No weights are kept: a spec has the model's files of JSON and a row `[name, dtype, shape, scale, offset]` a tensor, folder by
folder, and a weight's value is the function of its name that `families.py` defines. Names are those of published
checkpoints: with a prefix or without, `gamma` and `beta` in one, tensors that no task needs in others.

The golden has for each model `NAME.ids`, `NAME.types` (where the model has types) and `NAME.mask`, all `[texts, tokens]` and
padded on the right, and of f32 `NAME.hidden` (the last hidden state of all tokens, in the order of the texts, padding left
out), `NAME.scores` (a row a text, or a row a token) or `NAME.vectors` (a row a text). All of it is transformers' own, eager
attention, float32, CPU; what sentence-transformers puts behind a transformer is written out here, from its definition.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SPECS, GOLDEN = ROOT / "testdata/encoders", ROOT / "testdata/golden/encoders.safetensors"
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402

_families = importlib.util.spec_from_file_location("families", HERE / "families.py")
families = importlib.util.module_from_spec(_families)
_families.loader.exec_module(families)

BERT = dict(vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=40)
DISTIL = dict(vocab_size=512, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40)
MODERN = dict(BERT, num_hidden_layers=4, local_attention=8, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, pad_token_id=0)
DECODER = dict(BERT, num_key_value_heads=2, num_hidden_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
# nomic's own names for the same sizes, as its published configs have them.
NOMIC = {
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "auto_map": {
        "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None, "fused_bias_fc": True,
    "fused_dropout_add_ln": True, "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 2048,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 32, "n_head": 4, "n_inner": 48, "n_layer": 2,
    "n_positions": 64, "pad_vocab_size_multiple": 64, "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False,
    "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True, "summary_activation": None, "torch_dtype": "float32", "transformers_version": "4.37.2", "type_vocab_size": 2,
    "use_cache": True, "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "vocab_size": 512,
}
# ModernBERT's older dialect: what says the types of layers and the bases there.
OLD_MODERN = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
              "local_rope_theta": 10000.0, "position_embedding_type": "absolute", "layer_norm_eps": 1e-5}


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def sentence(pooling, *dense, normalise=True):
    """A sentence-transformers model's files: `dense` are (inputs, outputs, bias, activation)."""
    at = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    files = {"1_Pooling/config.json": pooling, "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False}}
    for number, (inputs, outputs, bias, activation) in enumerate(dense, 2):
        modules.append((f"{number}_Dense", "Dense"))
        files[f"{number}_Dense/config.json"] = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": activation}
    if normalise:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    files["modules.json"] = [{"idx": i, "name": str(i), "path": path, "type": at + kind} for i, (path, kind) in enumerate(modules)]
    return files


def flags(name, width=32):
    """The older dialect of a pooling's config."""
    names = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    return {"word_embedding_dimension": width, **{f"pooling_mode_{n}": n == name for n in names}, "include_prompt": True}


def table():
    """Name → the class, its config's arguments; `says`: keys of the config that is written instead (None leaves one out), `config`: all
    of it; `files`: other files of JSON; `old`: names as older checkpoints have them; `extra`: tensors besides; `bare`: no prefix."""
    import transformers as t

    three, five = labels("negative", "neutral", "positive"), labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    dense = [(32, 24, True, "torch.nn.modules.activation.Tanh"), (24, 16, False, "torch.nn.modules.linear.Identity")]
    position_ids = [["bert.embeddings.position_ids", "f32", [1, 40], 0.0, 0.0]]
    pooler = [["bert.pooler.dense.weight", "f32", [32, 32], 0.3, 0.0], ["bert.pooler.dense.bias", "f32", [32], 0.3, 0.0]]
    return {
        "bert": dict(cls=t.BertModel, args=BERT),
        "bert-mlm": dict(cls=t.BertForMaskedLM, args=dict(BERT, hidden_act="gelu_new"), says={"architectures": ["BertForPreTraining"]}),
        "bert-sequence": dict(cls=t.BertForSequenceClassification, args=dict(BERT, **three), old=True),
        "bert-tokens": dict(cls=t.BertForTokenClassification, args=dict(BERT, **five), extra=position_ids + pooler),
        "bert-cross": dict(cls=t.BertForSequenceClassification, args=dict(BERT, num_labels=1),
                           says={"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"}}),
        "roberta-sequence": dict(cls=t.RobertaForSequenceClassification, args=dict(BERT, type_vocab_size=1, **three)),
        "roberta-tokens": dict(cls=t.RobertaForTokenClassification, args=dict(BERT, type_vocab_size=1, **five)),
        "xlm-roberta-cross": dict(cls=t.XLMRobertaForSequenceClassification, args=dict(BERT, type_vocab_size=1, num_labels=1)),
        "camembert-mlm": dict(cls=t.CamembertForMaskedLM, args=dict(BERT, type_vocab_size=1)),
        "distilbert": dict(cls=t.DistilBertModel, args=DISTIL),
        "distilbert-mlm": dict(cls=t.DistilBertForMaskedLM, args=DISTIL),
        "distilbert-sequence": dict(cls=t.DistilBertForSequenceClassification, args=dict(DISTIL, **three)),
        "distilbert-tokens": dict(cls=t.DistilBertForTokenClassification, args=dict(DISTIL, **five)),
        "modernbert": dict(cls=t.ModernBertModel, args=MODERN),
        "modernbert-mlm": dict(cls=t.ModernBertForMaskedLM, args=MODERN, says=OLD_MODERN),
        "modernbert-sequence": dict(cls=t.ModernBertForSequenceClassification, args=dict(MODERN, **three), says=OLD_MODERN),
        "modernbert-mean": dict(cls=t.ModernBertForSequenceClassification, args=dict(
            MODERN, num_labels=1, classifier_pooling="mean", classifier_activation="silu", classifier_bias=True, norm_bias=True,
            attention_bias=True, mlp_bias=True, hidden_activation="silu")),
        "modernbert-tokens": dict(cls=t.ModernBertForTokenClassification, args=dict(MODERN, **five)),
        "nomic": dict(cls=t.NomicBertModel, args=dict(BERT, max_position_embeddings=64), config=NOMIC),
        "nomic-mlm": dict(cls=t.NomicBertForMaskedLM, args=BERT),
        "nomic-sequence": dict(cls=t.NomicBertForSequenceClassification, args=dict(BERT, **three)),
        "sentence-bert": dict(cls=t.BertModel, args=BERT, files=sentence(flags("mean_tokens"), *dense)),
        "sentence-mean": dict(cls=t.BertModel, args=BERT, files=sentence(flags("mean_tokens"))),
        "sentence-distilbert": dict(cls=t.DistilBertModel, args=DISTIL, files=sentence({"embedding_dimension": 32, "pooling_mode": "cls"})),
        "sentence-roberta": dict(cls=t.RobertaModel, args=dict(BERT, type_vocab_size=1), files=sentence(flags("max_tokens"), normalise=False)),
        "sentence-modernbert": dict(cls=t.ModernBertModel, args=MODERN, files=sentence(flags("mean_sqrt_len_tokens"), normalise=False)),
        "sentence-qwen3": dict(cls=t.Qwen3Model, args=dict(DECODER, head_dim=8), files=sentence(flags("lasttoken"))),
        "gpt2-tokens": dict(cls=t.GPT2ForTokenClassification, args=dict(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=0,
                                                                        bos_token_id=1, eos_token_id=2, **five)),
        "llama-sequence": dict(cls=t.LlamaForSequenceClassification, args=dict(DECODER, **three)),
    }


def scale_of(name, shape):
    """Matrices keep activations near 1, queries and keys are stronger, so that a forgotten mask or position moves the answer."""
    if name.endswith((".bias", ".beta")):
        return 0.35, 0.0
    if len(shape) == 1:
        return 0.35, 1.0
    if "embedding" in name or "embed_tokens" in name:
        return 0.87, 0.0
    strong = any(part in name for part in ("query", "key", "q_lin", "k_lin", "Wqkv", "q_proj", "k_proj"))
    return round(math.sqrt(3 / shape[-1]) * (2 if strong else 1), 3), 0.0


def written(entry, out):
    """The model as transformers writes it: its config, and the names and shapes of its tensors."""
    import torch
    from safetensors import safe_open

    cls = entry["cls"]
    config = cls.config_class(**entry["args"])
    torch.manual_seed(0)
    cls(config).save_pretrained(out)
    found = json.loads((out / "config.json").read_text())
    with safe_open(out / "model.safetensors", "pt") as file:
        tensors = [(name, list(file.get_slice(name).get_shape())) for name in file.keys()]
    return found, tensors


def specs(names):
    SPECS.mkdir(exist_ok=True)
    for name, entry in chosen(names):
        with tempfile.TemporaryDirectory() as tmp:
            config, tensors = written(entry, pathlib.Path(tmp))
        for key, value in entry.get("says", {}).items():
            config.pop(key, None) if value is None else config.__setitem__(key, value)
        config = entry.get("config", config)
        rows = [[n, "f32", s, *scale_of(n, s)] for n, s in tensors]
        if entry.get("old"):
            for row in rows:
                row[0] = row[0].replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        folders = {"": rows + entry.get("extra", [])}
        files = {"config.json": config, **entry.get("files", {})}
        for path, dense in files.items():
            if "_Dense/" in path:
                shape = [dense["out_features"], dense["in_features"]]
                rows = [["linear.weight", "f32", shape, *scale_of("linear.weight", shape)]]
                rows += [["linear.bias", "f32", shape[:1], 0.35, 0.0]] if dense["bias"] else []
                folders[path.split("/")[0]] = rows
        one = lambda value: json.dumps(value, separators=(",", ":"))  # noqa: E731
        blocks = ['"files": {\n' + ",\n".join(f"  {json.dumps(k)}: {one(v)}" for k, v in files.items()) + "\n}"]
        blocks.append('"folders": {\n' + ",\n".join(
            f"  {json.dumps(k)}: [\n" + ",\n".join("    " + one(row) for row in v) + "]" for k, v in folders.items()) + "\n}")
        (SPECS / f"{name}.json").write_text("{" + ",\n".join(blocks) + "}\n")


def write(name, root):
    from safetensors.numpy import save_file

    out = pathlib.Path(root, name)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec = json.loads((SPECS / f"{name}.json").read_text())
    for path, value in spec["files"].items():
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_text(json.dumps(value, indent=1))
    for folder, rows in spec["folders"].items():
        tensors = {row[0]: families.values(*row) for row in rows}
        save_file(tensors, out / folder / "model.safetensors", {"format": "pt"})
    return out, spec


def inputs(name, pad):
    """Three texts, the first longer than twice a window of 4 tokens around; ids below 96 and not of the special tokens."""
    rng = np.random.default_rng(sum(name.encode()))
    lengths = [19, 7, 1] if pad is not None else [19]
    width = max(lengths)
    ids, types, mask = (np.full((len(lengths), width), pad or 0, np.int64), np.zeros((len(lengths), width), np.int64),
                        np.zeros((len(lengths), width), np.int64))
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, 96, length)
        types[row, length // 2:length] = 1
        mask[row, :length] = 1
    return ids, types, mask


def pooled(kind, hidden, mask):
    """Text by text, as sentence-transformers defines it."""
    import torch

    out = []
    for row, ones in zip(hidden, mask):
        own = row[: int(ones.sum())]
        out.append({"mean": own.mean(0), "cls": own[0], "max": own.max(0).values, "lasttoken": own[-1],
                    "sqrt": own.sum(0) / math.sqrt(len(own))}[kind])
    return torch.stack(out)


KINDS = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "lasttoken": "lasttoken", "mean_sqrt_len_tokens": "sqrt"}


def golden(name, entry, root):
    import torch

    out, spec = write(name, root)
    cls = entry["cls"]
    config = cls.config_class(**entry["args"])
    model, info = cls.from_pretrained(out, config=config, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    allowed = ("position_ids", "pooler")
    assert not [k for k in info["missing_keys"] if "decoder" not in k] and not info["mismatched_keys"], (name, info)
    assert all(any(a in k for a in allowed) for k in info["unexpected_keys"]), (name, info)
    model.eval()
    ids, types, mask = inputs(name, config.pad_token_id)
    given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    has_types = getattr(config, "type_vocab_size", 1) > 1
    if has_types:
        given["token_type_ids"] = torch.from_numpy(types)
    with torch.no_grad():
        base = model.base_model if hasattr(model, "base_model") else model
        hidden = base(**given).last_hidden_state
        head = None if cls.__name__.endswith(("Model", "ForMaskedLM")) else model(**given).logits
    own = lambda x: torch.cat([row[: int(ones.sum())] for row, ones in zip(x, mask)])  # noqa: E731
    result = {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask), "hidden": own(hidden)}
    if has_types:
        result["types"] = torch.from_numpy(types)
    if head is not None:
        result["scores"] = own(head) if head.dim() == 3 else head
    if "modules.json" in spec["files"]:
        pooling = spec["files"]["1_Pooling/config.json"]
        kind = pooling.get("pooling_mode") or next(v for k, v in KINDS.items() if pooling[f"pooling_mode_{k}"])
        x = pooled(kind, hidden, mask)
        for folder, rows in spec["folders"].items():
            if folder:
                weights = {row[0]: torch.from_numpy(families.values(*row)) for row in rows}
                x = torch.nn.functional.linear(x, weights["linear.weight"], weights.get("linear.bias"))
                x = torch.tanh(x) if spec["files"][f"{folder}/config.json"]["activation_function"].endswith("Tanh") else x
        if any(m["type"].endswith("Normalize") for m in spec["files"]["modules.json"]):
            x = torch.nn.functional.normalize(x)
        result["vectors"] = x
    return {f"{name}.{key}": value.contiguous() for key, value in result.items()}


def goldens():
    import torch
    import transformers
    from safetensors.torch import save_file

    result = {}
    with tempfile.TemporaryDirectory() as tmp:
        for name, entry in chosen([]):
            result |= golden(name, entry, tmp)
    save_file(result, GOLDEN, {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__})


def chosen(names):
    rows = table()
    return [(name, rows[name]) for name in (names or rows)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["specs", "goldens", "write"])
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.what == "specs":
        specs(args.names)
    elif args.what == "goldens":
        goldens()
    else:
        for name, _ in chosen(args.names[1:]):
            write(name, args.names[0])


main()
