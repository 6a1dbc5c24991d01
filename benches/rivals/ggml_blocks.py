#!/usr/bin/env python3
"""ggml's own makers of blocks, millions of weights a second on one thread, for `cargo bench --bench blocks`.

usage: ggml_blocks.py LIBGGML-BASE.SO [TYPE…], from the root of the repository
"""
import ctypes
import sys
import time

import numpy as np

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13,
         "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39}
COLUMNS = 1024

lib = ctypes.CDLL(sys.argv[1])
# It builds the table that f16 scales are looked up in.
lib.ggml_init.argtypes, lib.ggml_init.restype = [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_bool], ctypes.c_void_p
lib.ggml_init(1 << 20, None, True)
chunk = lib.ggml_quantize_chunk
chunk.restype = ctypes.c_size_t
chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

numbers = np.fromfile("testdata/golden/ggml/input.f32", np.float32)[:8192]
importance = (0.1 + np.arange(COLUMNS) * 7919 % 1000 / 300).astype(np.float32)
out = np.zeros(numbers.nbytes, np.uint8)
print(f"{'type':8} {'plain':>8} {'importance':>10}")
for name in sys.argv[2:] or TYPES:
    figures = []
    for weights in (None, importance.ctypes.data):
        fastest, began = float("inf"), time.perf_counter()
        while time.perf_counter() - began < 0.5:
            start = time.perf_counter()
            chunk(TYPES[name], numbers.ctypes.data, out.ctypes.data, 0, len(numbers) // COLUMNS, COLUMNS, weights)
            fastest = min(fastest, time.perf_counter() - start)
        figures.append(len(numbers) / fastest / 1e6)
    print(f"{name:8} {figures[0]:8.1f} {figures[1]:10.1f}")
