"""Writes testdata/names/FAMILY.txt for the families below: names and shapes as `save_pretrained` writes them.

    python testdata/make/names.py

Each file has the config's facts and the tensors of the first layer of each kind. (The lists that also have a GGUF side
were made the same way, then by llama.cpp's convert_hf_to_gguf.py.)
"""

import json
import os
import pathlib
import re
import struct
import sys
import tempfile

# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

COMMON = dict(
    hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=1024, max_position_embeddings=512, pad_token_id=0, bos_token_id=0, eos_token_id=0,
)
FAMILIES = {
    "phi": {},
    "opt": dict(ffn_dim=512, word_embed_proj_dim=256, num_key_value_heads=None),
    "bloom": dict(n_layer=1, n_head=4, num_key_value_heads=None),
    "qwen2_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=256, shared_expert_intermediate_size=512),
    "llama4_text": dict(num_local_experts=4, intermediate_size_mlp=512, head_dim=64),
    "glm4": dict(head_dim=64),
    "cohere2": {},
    "stablelm": {},
    "qwen3_next": dict(num_hidden_layers=4, num_experts=4),
    "distilbert": dict(dim=256, n_layers=1, n_heads=4, hidden_dim=512, num_key_value_heads=None),
    "modernbert": dict(num_hidden_layers=2, num_key_value_heads=None, cls_token_id=0, sep_token_id=0),
    "nomic_bert": dict(num_key_value_heads=None),
}
# These tell texts apart; the others generate them.
ENCODERS = ["distilbert", "modernbert", "nomic_bert"]
KEYS = [
    "model_type", "architectures", "hidden_size", "intermediate_size", "ffn_dim", "num_hidden_layers", "n_layer",
    "num_attention_heads", "n_head", "dim", "hidden_dim", "n_layers", "n_heads", "num_key_value_heads", "head_dim", "vocab_size", "num_experts", "num_local_experts",
    "moe_intermediate_size",
]

for family, extra in FAMILIES.items():
    facts = {k: v for k, v in {**COMMON, **extra}.items() if v is not None}
    config = AutoConfig.for_model(family, **facts)
    auto = AutoModelForSequenceClassification if family in ENCODERS else AutoModelForCausalLM
    model = auto.from_config(config)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        saved = json.load(open(os.path.join(directory, "config.json")))
        (file,) = [f for f in os.listdir(directory) if f.endswith(".safetensors")]
        with open(os.path.join(directory, file), "rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
    header.pop("__metadata__", None)
    first = {}
    for name in sorted(header, key=lambda n: [int(s) if s.isdigit() else -1 for s in n.split(".")]):
        first.setdefault(re.sub(r"\.\d+\.", ".#.", name), name)
    lines = [
        f"# Tensors of a small {family} model: name, dtype, shape. Written by testdata/make/names.py,",
        f"# transformers {transformers.__version__}.",
        "[config]",
        json.dumps({k: saved[k] for k in KEYS if saved.get(k) is not None}),
        "[hf]",
    ]
    for name in sorted(first.values()):
        tensor = header[name]
        lines.append(f"{name} {tensor['dtype'].lower()} {'x'.join(map(str, tensor['shape']))}")
    with open(f"testdata/names/{family}.txt", "w") as f:
        f.write("\n".join(lines) + "\n")
