#!/usr/bin/env python3
"""Loads to host memory with Python's own loaders; one JSON line with the fields of `hoist load --json`.

usage: cpu_load.py safetensors-clone|torch-load FILE…

safetensors-clone: safetensors.torch.load_file, then a clone of each tensor: the bytes end in memory of the caller's own, as
they do with torch.load and with `hoist load --copy`. Timed is the call; the start of Python and the imports are not.
"""
import json
import resource
import sys
import time


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("safetensors-clone", "torch-load"):
        sys.exit(__doc__)
    loader, files = sys.argv[1], sys.argv[2:]
    import torch

    if loader == "safetensors-clone":
        from safetensors.torch import load_file

        def load(path):
            return {name: tensor.clone() for name, tensor in load_file(path, device="cpu").items()}
    else:

        def load(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)

    def cpu_seconds():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    cpu, clock = cpu_seconds(), time.perf_counter()
    tensors = {}
    for path in files:
        tensors.update(load(path))
    seconds, cpu = time.perf_counter() - clock, cpu_seconds() - cpu
    size_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
    print(json.dumps({
        "tool": loader,
        "path": loader,
        "bytes": size_bytes,
        "tensors": len(tensors),
        "seconds": seconds,
        "bytes_per_second": size_bytes / seconds,
        "cpu_seconds": cpu,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
