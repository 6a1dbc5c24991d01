"""Writes a checkpoint of any size that takes a gigabyte of disk: a PyTorch .bin whose tensors are views of one storage of random
numbers, each beginning elsewhere in it.

    python tiled_model.py OUT [LAYERS=58]

The shapes are those of a Llama of 70 billion parameters; 58 layers are 100 GB of bf16. Needs torch.
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p) != HERE]
import torch

HIDDEN, INNER, KEYS, VOCABULARY = 8192, 28672, 1024, 128256


def main():
    out, layers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 58
    os.makedirs(out)
    random = torch.Generator().manual_seed(0)
    # The embedding is the largest.
    tile = torch.empty(VOCABULARY * HIDDEN + (1 << 20), dtype=torch.bfloat16)
    for piece in tile.split(1 << 24):
        numbers = torch.randn(piece.shape, generator=random)
        piece.copy_(0.02 * numbers * numbers.abs().sqrt())
    state, count = {}, 0

    def add(name, *shape):
        nonlocal count
        size = 1
        for n in shape:
            size *= n
        first = 64 * (count * 7919 % ((tile.numel() - size) // 64 + 1))
        count += 1
        state[name] = tile[first : first + size].view(shape)

    add("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for n in range(layers):
        p = f"model.layers.{n}."
        add(p + "input_layernorm.weight", HIDDEN)
        add(p + "self_attn.q_proj.weight", HIDDEN, HIDDEN)
        add(p + "self_attn.k_proj.weight", KEYS, HIDDEN)
        add(p + "self_attn.v_proj.weight", KEYS, HIDDEN)
        add(p + "self_attn.o_proj.weight", HIDDEN, HIDDEN)
        add(p + "post_attention_layernorm.weight", HIDDEN)
        add(p + "mlp.gate_proj.weight", INNER, HIDDEN)
        add(p + "mlp.up_proj.weight", INNER, HIDDEN)
        add(p + "mlp.down_proj.weight", HIDDEN, INNER)
    add("model.norm.weight", HIDDEN)
    add("lm_head.weight", VOCABULARY, HIDDEN)
    torch.save(state, os.path.join(out, "pytorch_model.bin"))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": VOCABULARY, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }  # fmt: skip
    with open(os.path.join(out, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    print(f"{sum(t.numel() for t in state.values()) * 2 / 1e9:.1f} GB in {count} tensors")


main()
