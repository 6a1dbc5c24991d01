#!/usr/bin/env python3
"""Python's way from .bin to safetensors; one JSON line with wall and CPU seconds and peak memory.

usage: convert.py bin-to-safetensors DIR OUT

torch.load of each file (`weights_only`, `mmap`: the faster of its ways) and safetensors' save_file, then fsync of what was
written. Timed is the work; the start of Python and the imports are not.
"""
import json
import os
import resource
import sys
import time
from pathlib import Path


def main():
    if len(sys.argv) != 4 or sys.argv[1] != "bin-to-safetensors":
        sys.exit(__doc__)
    source, out = Path(sys.argv[2]), Path(sys.argv[3])
    import torch
    from safetensors.torch import save_file

    def cpu_seconds():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    cpu, clock = cpu_seconds(), time.perf_counter()
    files = sorted(source.glob("*.bin"))
    for path in files:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        target = out / f"{path.stem}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target, {"format": "pt"})
        with open(target, "rb") as written:
            os.fsync(written.fileno())
    seconds, cpu = time.perf_counter() - clock, cpu_seconds() - cpu
    if not files:
        sys.exit(f"convert.py: no .bin in {source}")
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
