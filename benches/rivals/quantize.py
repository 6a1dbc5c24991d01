"""How long the packages that are quantised with today need for the matrices of a safetensors file, in CPU seconds.

    python quantize.py METHOD FILE…        METHOD: hqq, llmcompressor-mse, llmcompressor-mse-symmetric

One thread. Only the choice of scales, zero points and codes is timed: nothing is read, packed or written in that time. The
first matrix is quantised once before, which is not timed. Prints one JSON line. Needs torch, safetensors, and hqq (0.2.8) or
compressed-tensors and llmcompressor (0.14; `pip install --no-deps llmcompressor loguru` beside them is enough).
"""

import json
import os
import sys
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TORCHDYNAMO_DISABLE"] = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p) != HERE]
import torch
from safetensors import safe_open

GROUP = 128


def hqq(weight):
    from hqq.core.quantize import Quantizer

    Quantizer.quantize(weight, nbits=4, group_size=GROUP, axis=1, bitpack=False, device="cpu", channel_wise=True)


def mse(symmetric):
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.observers import Observer

    args = QuantizationArgs(
        num_bits=4, symmetric=symmetric, strategy="group", group_size=GROUP, observer="memoryless_mse"
    )

    def quantise(weight):
        from compressed_tensors.quantization.lifecycle import quantize

        module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        observer = Observer.load_from_registry("memoryless_mse", base_name="weight", args=args, module=module)
        observer(weight)
        found = observer.get_qparams()
        quantize(weight, found["scale"], found["zero_point"], args)

    return quantise


def main():
    method, *files = sys.argv[1:]
    quantise = {
        "hqq": lambda: hqq,
        "llmcompressor-mse": lambda: mse(False),
        "llmcompressor-mse-symmetric": lambda: mse(True),
    }[method]()
    torch.set_num_threads(1)
    matrices = []
    for path in files:
        with safe_open(path, "pt") as file:
            matrices += [file.get_tensor(k) for k in file.keys() if k.endswith("proj.weight")]
    quantise(matrices[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for matrix in matrices:
        quantise(matrix)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = sum(m.numel() for m in matrices)
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "weights": count, "bytes": 2 * count}))


main()
