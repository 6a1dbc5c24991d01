#!/usr/bin/env python3
"""What the machine allows: one JSON line a measurement.

usage: limits.py FILE [--gb 8] [--device 0] [--threads 1,4,8,12,16] [--chunks 512Ki,1Mi,2Mi,4Mi,16Mi] [--only pinned,ring,…]

FILE is any file of at least that size (a shard). The CUDA runtime is used through ctypes: CUDART names its library, else it
is looked for, last in torch. No kernel runs. All times end with a synchronisation.

  pinned     copies from memory of cudaHostAlloc, by chunk size: what the link allows
  pageable   copies from ordinary memory, and straight from a mapping of the file, which is what simple loaders do
  pincost    what pinning costs: cudaHostAlloc against memory made present first and registered then, small and huge pages
  register   the page cache registered read-only and read by the device itself: whole, by windows, by several threads
  ring       threads that read (or copy from a mapping) into pinned slots, one copy in flight for each slot
  odirect    the same with O_DIRECT: what the disk allows
"""
import argparse
import ctypes
import glob
import json
import mmap
import os
import sys
import threading
import time

MIB, GIB = 1 << 20, 1 << 30
REGISTER_READ_ONLY = 0x08
ATTRIBUTE_READ_ONLY_REGISTER = 113
COPY_TO_DEVICE = 1
STREAM_NON_BLOCKING = 1
pointer, size_type = ctypes.c_void_p, ctypes.c_size_t


class CudaError(RuntimeError):
    pass


def open_runtime():
    names = [os.environ.get("CUDART"), "libcudart.so.13", "libcudart.so.12", "libcudart.so"]
    for directory in sys.path:
        names += sorted(glob.glob(os.path.join(directory, "nvidia", "*", "lib", "libcudart.so.*")))
    for name in filter(None, names):
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    try:
        import torch  # brings its own along

        torch.cuda.init()
    except Exception as error:
        sys.exit(f"no CUDA runtime: {error}")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if "libcudart" in line:
                return ctypes.CDLL(line.split()[-1])
    sys.exit("no CUDA runtime: set CUDART to its library")


class Cuda:
    """The few calls that are needed, errors as exceptions."""

    def __init__(self, device):
        self.runtime, self.device = open_runtime(), device
        self.call("cudaSetDevice", device)
        value = ctypes.c_int()
        self.call("cudaDeviceGetAttribute", ctypes.byref(value), ATTRIBUTE_READ_ONLY_REGISTER, device)
        self.registers_read_only = bool(value.value)

    def call(self, name, *arguments):
        result = getattr(self.runtime, name)(*arguments)
        if result:
            raise CudaError(f"{name}: error {result}")

    def made(self, name, *arguments):
        value = pointer()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def device_memory(self, size):
        return self.made("cudaMalloc", size_type(size))

    def pinned_memory(self, size):
        return self.made("cudaHostAlloc", size_type(size), 0)

    def free_pinned(self, address):
        self.call("cudaFreeHost", pointer(address))

    def stream(self):
        # The runtime's current device is a thread's own; each thread makes its streams first.
        self.call("cudaSetDevice", self.device)
        return self.made("cudaStreamCreateWithFlags", STREAM_NON_BLOCKING)

    def copy(self, target, source, size, stream):
        self.call("cudaMemcpyAsync", pointer(target), pointer(source), size_type(size), COPY_TO_DEVICE, pointer(stream))

    def wait(self, stream):
        self.call("cudaStreamSynchronize", pointer(stream))

    def register(self, address, size, flags):
        self.call("cudaHostRegister", pointer(address), size_type(size), flags)

    def unregister(self, address):
        self.call("cudaHostUnregister", pointer(address))


class Mapping:
    """The file mapped shared and read-only, by libc itself: Python gives no address of a mapping it may not write."""

    def __init__(self, path, size):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = pointer
        libc.mmap.argtypes = [pointer, size_type, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        descriptor = os.open(path, os.O_RDONLY)
        self.address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        os.close(descriptor)
        if self.address in (None, pointer(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self.libc, self.size = libc, size

    def __enter__(self):
        return self.address

    def __exit__(self, *_):
        self.libc.munmap(pointer(self.address), size_type(self.size))


def say(test, **facts):
    print(json.dumps({"test": test} | facts), flush=True)


def rate(size, seconds):
    return round(size / seconds / 1e9, 2)


def timed(action):
    clock = time.perf_counter()
    action()
    return time.perf_counter() - clock


def on_threads(count, work):
    """Runs work(index) on so many threads; gives wall and CPU seconds. The first error is raised again."""
    errors = []

    def guarded(index):
        try:
            work(index)
        except (CudaError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    cpu, clock = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    if errors:
        raise errors[0]
    return seconds, cpu


class Counter:
    """Hands out places of a file, a step at a time."""

    def __init__(self, end, step):
        self.next, self.end, self.step, self.lock = 0, end, step, threading.Lock()

    def take(self):
        with self.lock:
            place = self.next
            self.next += self.step
        return (place, min(self.step, self.end - place)) if place < self.end else None


def pinned(cuda, settings, device):
    size = min(GIB, settings.size)
    source, stream = cuda.pinned_memory(size), cuda.stream()
    ctypes.memset(source, 1, size)
    for chunk in [*settings.chunks, size]:

        def copy():
            for place in range(0, size, chunk):
                cuda.copy(device + place, source + place, min(chunk, size - place), stream)
            cuda.wait(stream)

        copy()
        say("pinned", chunk_bytes=chunk, gb_per_s=rate(size, min(timed(copy) for _ in range(3))))
    cuda.free_pinned(source)


def pageable(cuda, settings, device):
    stream = cuda.stream()
    size = min(GIB, settings.size)
    memory = ctypes.create_string_buffer(size)
    ctypes.memset(memory, 1, size)

    def copy_from(address, size):
        cuda.copy(device, address, size, stream)
        cuda.wait(stream)

    best = min(timed(lambda: copy_from(ctypes.addressof(memory), size)) for _ in range(3))
    say("pageable memory", gb_per_s=rate(size, best))
    del memory
    for rep in range(2):
        with Mapping(settings.file, settings.size) as address:
            seconds = timed(lambda: copy_from(address, settings.size))
        say("pageable mapping", rep=rep, gb_per_s=rate(settings.size, seconds))


def pincost(cuda, settings, device):
    del device
    size = min(GIB, settings.size)
    clock = time.perf_counter()
    address = cuda.pinned_memory(size)
    say("cudaHostAlloc", gb_per_s=rate(size, time.perf_counter() - clock))
    cuda.free_pinned(address)
    for huge in (False, True):
        memory = mmap.mmap(-1, size + 2 * MIB)
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        view = (ctypes.c_char * (size + 2 * MIB)).from_buffer(memory)
        address = (ctypes.addressof(view) + 2 * MIB - 1) & ~(2 * MIB - 1)
        present = timed(lambda: ctypes.memset(address, 1, size))
        register = timed(lambda: cuda.register(address, size, 0))
        unregister = timed(lambda: cuda.unregister(address))
        say(
            "make present, then register", huge_pages=huge, present_gb_per_s=rate(size, present),
            register_gb_per_s=rate(size, register), unregister_seconds=round(unregister, 4),
        )
        del view
        memory.close()


def register(cuda, settings, device):
    size = settings.size
    say("read-only registration", supported=cuda.registers_read_only)
    stream = cuda.stream()
    for window in dict.fromkeys((size, GIB, 256 * MIB)):
        if window > size:
            continue
        try:
            with Mapping(settings.file, size) as base:
                spent = [0.0, 0.0, 0.0]
                clock = time.perf_counter()
                for place in range(0, size, window):
                    length = min(window, size - place)
                    at = [time.perf_counter()]
                    cuda.register(base + place, length, REGISTER_READ_ONLY)
                    at.append(time.perf_counter())
                    cuda.copy(device + place, base + place, length, stream)
                    cuda.wait(stream)
                    at.append(time.perf_counter())
                    cuda.unregister(base + place)
                    at.append(time.perf_counter())
                    spent = [s + b - a for s, a, b in zip(spent, at, at[1:])]
                seconds = time.perf_counter() - clock
            say(
                "registered page cache", window_bytes=window, threads=1, gb_per_s=rate(size, seconds),
                register_gb_per_s=rate(size, spent[0]), copy_gb_per_s=rate(size, spent[1]),
                unregister_seconds=round(spent[2], 3),
            )
        except CudaError as error:
            say("registered page cache", window_bytes=window, threads=1, error=str(error))
    # Once registered, copied twice: what a resident process would see.
    try:
        with Mapping(settings.file, size) as base:
            cuda.register(base, size, REGISTER_READ_ONLY)

            def copy():
                cuda.copy(device, base, size, stream)
                cuda.wait(stream)

            copy()
            say("registered page cache, again", gb_per_s=rate(size, timed(copy)))
            cuda.unregister(base)
    except CudaError as error:
        say("registered page cache, again", error=str(error))
    for threads in (t for t in settings.threads if t > 1):
        for window in (16 * MIB, 64 * MIB):
            try:
                with Mapping(settings.file, size) as base:
                    places = Counter(size, window)

                    def work(_):
                        mine = cuda.stream()
                        while (piece := places.take()) is not None:
                            place, length = piece
                            cuda.register(base + place, length, REGISTER_READ_ONLY)
                            cuda.copy(device + place, base + place, length, mine)
                            cuda.wait(mine)
                            cuda.unregister(base + place)

                    seconds, cpu = on_threads(threads, work)
                say(
                    "registered page cache", window_bytes=window, threads=threads, gb_per_s=rate(size, seconds),
                    cpu_seconds_per_gb=round(cpu / size * 1e9, 3),
                )
            except CudaError as error:
                say("registered page cache", window_bytes=window, threads=threads, error=str(error))


def one_ring(cuda, settings, device, how, threads, chunk, slots=2):
    size = settings.size
    flags = os.O_RDONLY | (os.O_DIRECT if how == "odirect" else 0)
    descriptor = os.open(settings.file, flags)
    total = threads * slots * chunk
    base = cuda.pinned_memory(total)
    ctypes.memset(base, 0, total)
    mapping = Mapping(settings.file, size) if how == "mapping" else None

    def attempt():
        places = Counter(size, chunk)

        def work(index):
            addresses = [base + (index * slots + slot) * chunk for slot in range(slots)]
            views = [memoryview((ctypes.c_char * chunk).from_address(a)).cast("B") for a in addresses]
            streams = [cuda.stream() for _ in range(slots)]
            slot = 0
            while (piece := places.take()) is not None:
                place, length = piece
                cuda.wait(streams[slot])
                if mapping is not None:
                    ctypes.memmove(addresses[slot], mapping.address + place, length)
                else:
                    done = 0
                    while done < length:
                        read = os.preadv(descriptor, [views[slot][done:length]], place + done)
                        if read <= 0:
                            raise OSError("short read")
                        done += read
                cuda.copy(device + place, addresses[slot], length, streams[slot])
                slot = (slot + 1) % slots
            for stream in streams:
                cuda.wait(stream)

        return on_threads(threads, work)

    try:
        seconds, cpu = min(attempt() for _ in range(2))
        say(
            "ring", how=how, threads=threads, chunk_bytes=chunk, slots=slots, pinned_bytes=total,
            gb_per_s=rate(size, seconds), cpu_seconds_per_gb=round(cpu / size * 1e9, 3),
        )
    except (CudaError, OSError) as error:
        say("ring", how=how, threads=threads, chunk_bytes=chunk, error=str(error))
    finally:
        if mapping is not None:
            mapping.__exit__()
        cuda.free_pinned(base)
        os.close(descriptor)


def ring(cuda, settings, device):
    for how in ("pread", "mapping"):
        for threads in settings.threads:
            for chunk in settings.chunks:
                if threads * 2 * chunk <= 2 * GIB:
                    one_ring(cuda, settings, device, how, threads, chunk)


def odirect(cuda, settings, device):
    for threads in settings.threads:
        for chunk in (MIB, 4 * MIB, 16 * MIB):
            one_ring(cuda, settings, device, "odirect", threads, chunk)


TESTS = {t.__name__: t for t in (pinned, pageable, pincost, register, ring, odirect)}


def size_of(text):
    units = {"Ki": 1 << 10, "Mi": MIB, "Gi": GIB}
    return int(text[:-2]) * units[text[-2:]] if text[-2:] in units else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--gb", type=float, default=8)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--threads", default="1,4,8,12,16")
    parser.add_argument("--chunks", default="512Ki,1Mi,2Mi,4Mi,16Mi")
    parser.add_argument("--only", default=",".join(TESTS))
    settings = parser.parse_args()
    unknown = set(settings.only.split(",")) - set(TESTS)
    if unknown:
        parser.error(f"no test {', '.join(sorted(unknown))}")
    settings.threads = [int(t) for t in settings.threads.split(",")]
    settings.chunks = [size_of(c) for c in settings.chunks.split(",")]
    # Whole chunks only, so that O_DIRECT meets no odd end.
    settings.size = int(min(os.path.getsize(settings.file), settings.gb * 1e9)) // (64 * MIB) * (64 * MIB)
    if settings.size == 0:
        parser.error("the file must have 64 MiB at least")

    cuda = Cuda(settings.device)
    device = cuda.device_memory(settings.size)
    buffer = bytearray(16 * MIB)
    with open(settings.file, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    for name in settings.only.split(","):
        try:
            TESTS[name](cuda, settings, device)
        except (CudaError, OSError) as error:
            say(name, error=str(error))


if __name__ == "__main__":
    main()
