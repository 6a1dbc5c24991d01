"""What the benchmarks of loaders share: which files, their payload, the state of the page cache, digests, memory.

Only the standard library is imported here, so that a process's start counts nothing of ours.
"""
import ctypes
import glob
import hashlib
import json
import mmap
import os
import struct
import subprocess
import sys
import time


def model_files(paths):
    files = []
    for path in paths:
        files += sorted(glob.glob(os.path.join(path, "*.safetensors"))) if os.path.isdir(path) else [path]
    if not files:
        sys.exit("no .safetensors file there")
    return files


def header(path):
    """The header of a safetensors file without its metadata, and where the data starts."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    return entries, 8 + size


def payload_bytes(files):
    """Bytes that a loader must move."""
    offsets = (entry["data_offsets"] for path in files for entry in header(path)[0].values())
    return sum(end - begin for begin, end in offsets)


def resident_share(files):
    """The share of the files that the page cache holds, by mincore."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    page = mmap.PAGESIZE
    held = total = 0
    for path in files:
        size = os.path.getsize(path)
        if size == 0:
            continue
        with open(path, "rb") as file:
            # Writable and private, because ctypes takes the address of nothing less; nothing is written.
            mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        pages = (size + page - 1) // page
        states = (ctypes.c_ubyte * pages)()
        view = (ctypes.c_char * size).from_buffer(mapped)
        if libc.mincore(ctypes.addressof(view), size, states):
            sys.exit(f"mincore: {os.strerror(ctypes.get_errno())}")
        # Only the lowest bit means something.
        held += sum(bytes(states).count(bytes([value])) for value in range(1, 256, 2))
        total += pages
        del view
        mapped.close()
    return held / max(total, 1)


def set_cache(files, state):
    """Brings the files into the page cache (`hot`) or out of it (`cold`); gives the share that is resident after it."""
    if state == "cold":
        for path in files:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    elif state == "hot":
        buffer = bytearray(16 << 20)
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return round(resident_share(files), 4)


def digest(tensors):
    """One digest of names, types, shapes and bits: the first 16 hex digits of the SHA-256 of a line a tensor, sorted by
    name, `NAME|TYPE|SHAPE|SUM`: TYPE and SHAPE as Python prints them (`torch.bfloat16`, `(4096,)`, `()`), SUM in decimal.

    SUM is of the tensor's bytes as little-endian 64-bit words, zero bytes added at the end to fill the last: for each
    run of 2^20 words r = Σ word[i] · (i + 1), then sum = sum · 1000003 + r, all modulo 2^64. A word in a wrong place
    changes it. `hoist load --check --json` prints the same.
    """
    import torch

    run = 1 << 20
    lines = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        data = tensor.contiguous().reshape(-1).view(torch.uint8)
        missing = -data.numel() % 8
        if missing:
            data = torch.cat([data, torch.zeros(missing, dtype=torch.uint8, device=data.device)])
        if data.data_ptr() % 8:
            data = data.clone()
        words = data.view(torch.int64)
        places = torch.arange(1, min(words.numel(), run) + 1, device=words.device, dtype=torch.int64)
        total = 0
        for start in range(0, words.numel(), run):
            part = words[start : start + run]
            total = (total * 1000003 + int((part * places[: part.numel()]).sum().item())) % (1 << 64)
        lines.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{total}\n".encode())
    return lines.hexdigest()[:16]


def process_age_seconds():
    """How long ago this process was started, to a clock tick."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        started_ticks = int(stat.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


class Sampler:
    """Watches device memory and the host's available memory from a process of its own, so that it takes no lock and no
    time from what it watches. Peaks are above the state at the start, and above that at `mark`."""

    def __init__(self, device_index):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sample.py")
        command = [sys.executable, script, str(device_index)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def mark(self):
        self.process.stdin.write("mark\n")
        self.process.stdin.flush()
        time.sleep(0.05)

    def finish(self):
        return json.loads(self.process.communicate()[0])
