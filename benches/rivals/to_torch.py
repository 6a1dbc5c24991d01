#!/usr/bin/env python3
"""Writes the tensors of safetensors files as PyTorch zip files, one a file: to_torch.py OUT_DIR FILE… (not timed)."""
import os
import sys

import torch
from safetensors.torch import load_file

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
for path in sys.argv[2:]:
    torch.save(load_file(path), os.path.join(out, os.path.basename(path).replace(".safetensors", ".bin")))
