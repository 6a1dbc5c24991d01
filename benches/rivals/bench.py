#!/usr/bin/env python3
"""Times one loader, one JSON line a repetition.

usage: bench.py LOADER DIR_OR_FILE… [--cache hot|cold|asis] [--reps 3] [--device cuda:0] [--check] [--memory] [--opt KEY=VALUE]…

Rules, the same for all: the tensors must be memory of the caller's own on the device when the call returns; timed are the
call and a final synchronisation; the CUDA context exists before. `hot` means that mincore says all is resident, `cold`
that nothing is. GB is 10^9 bytes of payload. Repetition 0 has whatever a loader sets up once, so it is reported apart.
`start_to_ready_seconds` (repetition 0) is from the start of the process, imports and context included, without our own
preparation. --check adds the digest that must be the same for all loaders of one model. --memory runs once more, with
peaks of device and host memory and with no time that counts.

Loaders that read a format of their own convert first, untimed, into --opt pack=DIR. What each option means is in the table
at the end; a default is the loader's own default.
"""
import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from common import Sampler, digest, header, model_files, payload_bytes, process_age_seconds, set_cache


def same(files, options):
    return files


def packed(suffix, loader):
    """Files of another format beside, made once, by a process of their own: what it imports and keeps in memory is not
    this one's."""

    def prepare(files, options):
        directory = options.get("pack") or os.path.join(tempfile.gettempdir(), f"packed-{suffix}")
        os.makedirs(directory, exist_ok=True)
        made = []
        for path in files:
            target = os.path.join(directory, f"{os.path.basename(path)}.{suffix}")
            if not os.path.exists(target):
                subprocess.run([sys.executable, __file__, "--convert", loader, path, target + ".part"], check=True)
                os.rename(target + ".part", target)
            made.append(target)
        return made

    return prepare


def safetensors(files, device, options):
    from safetensors.torch import load_file

    tensors = {}
    for path in files:
        tensors.update(load_file(path, device=device, backend=options.get("backend", "mmap")))
    return tensors


def safetensors_prefetch(files, device, options):
    """`ahead` more files are begun before the current one is drained, which hides the pause between files."""
    from collections import deque

    from safetensors import safe_open

    ahead, threads = int(options.get("ahead", 1)), int(options.get("threads", 8))
    tensors, begun, left = {}, deque(), deque(files)
    while left or begun:
        while left and len(begun) <= ahead:
            handle = safe_open(left.popleft(), framework="pt", device=device, backend="pread")
            handle.__enter__()
            begun.append((handle, handle.prefetch(device=device, threads=threads)))
        handle, loader = begun.popleft()
        with loader:
            for name, tensor in loader:
                tensors[name] = tensor
        handle.__exit__(None, None, None)
    return tensors


def torch_pin(files, device, options):
    """What a careful user writes: view of the mapping, pinned copy, asynchronous copy to the device."""
    import torch
    from safetensors import safe_open

    tensors, pinned = {}, []
    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
                if device == "cpu":
                    tensors[name] = tensor.clone()
                    continue
                pinned.append(tensor.pin_memory())
                tensors[name] = pinned[-1].to(device, non_blocking=True)
                if len(pinned) == 64:
                    torch.cuda.synchronize()
                    pinned.clear()
    if device != "cpu":
        torch.cuda.synchronize()
    return tensors


def fastsafetensors(files, device, options):
    from fastsafetensors import ParallelLoader, SafeTensorsFileLoader, SingleGroup

    settings = {
        "bbuf_size_kb": int(options.get("bounce_kib", 16 << 10)),
        "max_threads": int(options.get("threads", 16)),
        "nogds": options.get("gds", "0") != "1",
    }
    if options.get("api", "bulk") == "parallel":
        loader = ParallelLoader(
            SingleGroup(), files, queue_size=0, use_tqdm_on_load=False, device=device, **settings
        )
        tensors = dict(loader.iterate_weights())
        loader.close()
        return tensors
    loader = SafeTensorsFileLoader(SingleGroup(), device, **settings)
    loader.add_filenames({0: files})
    buffer = loader.copy_files_to_device()
    tensors = {name: buffer.get_tensor(name) for name in loader.get_keys()}
    buffer.close()
    loader.close()
    return tensors


def instanttensor(files, device, options):
    import torch
    from instanttensor import safe_open

    try:
        from instanttensor import Backend, BackendPolicy
    except ImportError:
        from instanttensor._impl import Backend, BackendPolicy
    backend = options.get("backend")
    if backend is not None:
        backend = BackendPolicy.BUFFERED if backend == "BUFFERED" else Backend[backend]
    number = lambda key: int(options[key]) if key in options else None
    # The list is sorted in place by the callee.
    with safe_open(
        list(files), framework="pt", device=torch.device(device).index, backend=backend,
        chunk_size=number("chunk"), io_depth=number("depth"), concurrency=number("concurrency"),
    ) as file:
        return dict(file.tensors())


def runai(files, device, options):
    from runai_model_streamer import SafetensorsStreamer

    direct = options.get("dest", "cpu") == "device"
    tensors = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(files), device=device if direct else "cpu", owned=False)
        for name, tensor in streamer.get_tensors():
            tensors[name] = tensor.to(device, copy=device == "cpu")
    return tensors


def kvikio(files, device, options):
    """Each file's data as one buffer, tensors as views: raw I/O, the least that a loader could do."""
    import kvikio as library
    import torch

    types = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
        "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    }
    tensors, begun = {}, []
    for path in files:
        entries, start = header(path)
        size = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        buffer = torch.empty(size, dtype=torch.uint8, device=device)
        file = library.CuFile(path, "r")
        begun.append((file, file.pread(buffer, size, file_offset=start), buffer, entries))
    for file, future, buffer, entries in begun:
        future.get()
        file.close()
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            kind, data = types[entry["dtype"]], buffer[begin:end]
            if data.data_ptr() % kind.itemsize:
                data = data.clone()
            tensors[name] = data.view(kind).view(entry["shape"])
    return tensors


def to_flashpack(path, target):
    from flashpack import pack_to_file
    from safetensors.torch import load_file

    pack_to_file(load_file(path, device="cpu"), target, None)


def flashpack(files, device, options):
    from flashpack.deserialization import iterate_from_flash_tensor, read_flashpack_file

    tensors = {}
    for path in files:
        storage, meta = read_flashpack_file(path, device=device)
        tensors.update(iterate_from_flash_tensor(storage, meta))
    return tensors


def to_tensorizer(path, target):
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    serializer = TensorSerializer(target)
    serializer.write_state_dict(load_file(path, device="cpu"))
    serializer.close()


def tensorizer(files, device, options):
    from tensorizer import TensorDeserializer

    tensors = {}
    for path in files:
        reader = TensorDeserializer(path, device=device, num_readers=int(options.get("readers", 8)))
        tensors.update({name: reader[name].data for name in reader.keys()})
        reader.close()
    return tensors


# name: (load, prepare, options). Environment variables of a loader's own are set by whoever calls us.
LOADERS = {
    "safetensors": (safetensors, same, "backend=mmap|pread"),
    "safetensors-prefetch": (safetensors_prefetch, same, "threads, ahead; safetensors 0.9"),
    "torch-pin": (torch_pin, same, ""),
    "fastsafetensors": (fastsafetensors, same, "io=odirect|buffered, api=bulk|parallel, gds=1, threads, bounce_kib"),
    "instanttensor": (instanttensor, same, "backend=URING|AIO|URING_BUFFERED|MMAP|…, chunk, depth, concurrency"),
    "runai": (runai, same, "dest=cpu|device"),
    "kvikio": (kvikio, same, ""),
    "flashpack": (flashpack, packed("flashpack", "flashpack"), "pack"),
    "tensorizer": (tensorizer, packed("tensors", "tensorizer"), "pack, readers"),
}


CONVERTERS = {"flashpack": to_flashpack, "tensorizer": to_tensorizer}


def run_hoist(files, arguments, options, base):
    """hoist is a process of its own, and says itself how long the call took and how old the process was when all was
    there. The whole process, with giving the memory back, is what we see."""
    command = [options["binary"], "load", os.path.dirname(os.path.abspath(files[0])), "--json", "--device", arguments.device]
    for key in ("threads", "io"):
        if key in options:
            command += [f"--{key}", options[key]]
    if arguments.check:
        command.append("--check")
    sampler = Sampler(device_index(arguments.device)) if arguments.memory else None
    for rep in range(1 if arguments.memory else arguments.reps):
        resident = set_cache(files, arguments.cache)
        started = time.perf_counter()
        result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        seconds = time.perf_counter() - started
        if result.returncode:
            print(json.dumps(base | {"rep": rep, "error": f"exit code {result.returncode}"}), flush=True)
            sys.exit(1)
        said = json.loads(result.stdout)
        record = base | {
            "rep": rep, "resident": resident, "seconds": said["seconds"],
            "bytes_per_second": base["bytes"] / said["seconds"], "cpu_seconds": said["cpu_seconds"],
            "start_to_ready_seconds": said.get("ready_seconds") or seconds, "process_seconds": seconds,
            "peak_rss_bytes": said["peak_rss_bytes"], "said": said,
        }
        if "digest" in said:
            record["digest"] = said["digest"]
        if sampler:
            record = base | {"memory": sampler.finish(), "said": said}
        print(json.dumps(record), flush=True)


def device_index(device):
    return int(device.partition(":")[2] or 0)


def run_rival(files, arguments, options, base):
    load, prepare, _ = LOADERS[arguments.loader]
    if arguments.loader == "fastsafetensors" and "io" in options:
        os.environ["FASTSAFETENSORS_ODIRECT"] = "1" if options["io"] == "odirect" else "0"
    began = time.perf_counter()
    files = prepare(files, options)
    ours = time.perf_counter() - began
    cuda = arguments.device.startswith("cuda")
    sampler = Sampler(device_index(arguments.device)) if arguments.memory else None
    import torch

    if cuda:
        torch.cuda.set_device(arguments.device)
        torch.zeros(1 << 20, device=arguments.device)
        torch.cuda.synchronize()
    for rep in range(1 if arguments.memory else arguments.reps):
        began = time.perf_counter()
        resident = set_cache(files, arguments.cache)
        ours += time.perf_counter() - began
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if sampler:
            sampler.mark()
        clock, cpu = time.perf_counter(), time.process_time()
        tensors = load(files, arguments.device, options)
        if cuda:
            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
        if rep == 0:
            base["tensors"] = len(tensors)
            start_to_ready = process_age_seconds() - ours
        if sampler:
            print(json.dumps(base | {"memory": sampler.finish()}), flush=True)
            return
        record = base | {
            "rep": rep, "resident": resident, "seconds": seconds,
            "bytes_per_second": base["bytes"] / seconds, "cpu_seconds": cpu,
            "start_to_ready_seconds": start_to_ready if rep == 0 else None,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "torch_peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        }
        if arguments.check and rep == 0:
            record["digest"] = digest(tensors)
        print(json.dumps(record), flush=True)
        del tensors
        gc.collect()


def main():
    if sys.argv[1:2] == ["--convert"]:
        CONVERTERS[sys.argv[2]](*sys.argv[3:])
        return
    table = "\n".join(f"  {name:<22}{options}" for name, (_, _, options) in LOADERS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"loaders and their options:\n  hoist                 binary, threads, io\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("loader", choices=["hoist", *LOADERS])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--cache", default="asis", choices=["hot", "cold", "asis"])
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--opt", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    options = dict(option.split("=", 1) for option in arguments.opt)
    if arguments.loader == "hoist" and "binary" not in options:
        parser.error("hoist needs --opt binary=PATH")
    files = model_files(arguments.paths)
    base = {
        "loader": arguments.loader,
        "options": {k: v for k, v in options.items() if k not in ("binary", "pack")},
        "cache": arguments.cache, "device": arguments.device, "files": len(files), "bytes": payload_bytes(files),
    }
    run = run_hoist if arguments.loader == "hoist" else run_rival
    run(files, arguments, options, base)


if __name__ == "__main__":
    main()
