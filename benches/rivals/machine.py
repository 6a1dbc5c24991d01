#!/usr/bin/env python3
"""Facts about the machine, one JSON line each: machine.py HOIST, or machine.py HOIST MODEL for hoist's own view of it."""
import json
import os
import platform
import subprocess
import sys


def ask(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def first(path, start):
    with open(path, encoding="utf-8", errors="replace") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(start)), "unknown")


def main():
    hoist, *model = sys.argv[1:]
    if model:
        said = subprocess.run([hoist, "doctor", *model, "--json"], stdout=subprocess.PIPE, timeout=140, check=True)
        print(json.dumps({"doctor": json.loads(said.stdout)}))
        return
    query = "--query-gpu=name,driver_version,pcie.link.gen.max,pcie.link.width.max"
    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    torch = ask(sys.executable, "-c", "import torch; print(torch.__version__)")
    print(json.dumps({"machine": {
        "GPU": ask("nvidia-smi", query, "--format=csv,noheader"),
        "CPU": f"{first('/proc/cpuinfo', 'model name')}, {os.cpu_count()} threads, {memory:.0f} GiB",
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, torch {torch}",
        "hoist": ask(hoist, "--version"),
    }}))


if __name__ == "__main__":
    main()
