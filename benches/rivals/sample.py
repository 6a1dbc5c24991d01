#!/usr/bin/env python3
"""Samples memory until its standard input ends, then prints peaks as JSON: sample.py DEVICE_INDEX.

Device memory in use comes from NVML (all processes: nothing else may use the device), host memory from MemAvailable, which
counts pinned memory as gone and the page cache as there. A line on standard input marks the point from which the `call`
peaks count. Without NVML the device figures are null.
"""
import ctypes
import json
import select
import sys
import time


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def device_reader(index):
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return lambda: None
    handle = ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        return lambda: None

    def used():
        memory = Memory()
        return None if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) else memory.used

    return used


def host_taken(file):
    file.seek(0)
    for line in file.read().splitlines():
        if line.startswith("MemAvailable:"):
            return -1024 * int(line.split()[1])
    return None


def main():
    device = device_reader(int(sys.argv[1]))
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        read = {"device": device, "host": lambda: host_taken(meminfo)}
        start = {what: take() for what, take in read.items()}
        base, peak, whole = dict(start), dict(start), dict(start)
        print("ready", flush=True)
        while True:
            now = {what: take() for what, take in read.items()}
            for what, value in now.items():
                if value is not None:
                    peak[what], whole[what] = max(peak[what], value), max(whole[what], value)
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.readline():
                    break
                base, peak = dict(now), dict(now)
            time.sleep(0.002)
    above = lambda top, floor, what: None if top[what] is None else top[what] - floor[what]
    print(json.dumps({
        f"{what}_peak_bytes_of_{span}": above(top, floor, what)
        for what in read
        for span, top, floor in (("call", peak, base), ("process", whole, start))
    }))


if __name__ == "__main__":
    main()
