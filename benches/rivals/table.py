#!/usr/bin/env python3
"""Makes one table of results.jsonl: table.py RESULTS.jsonl [OUT.md]. Exits with 1 if two digests differ.

Rates are medians over the repetitions after the first; the first, which has a loader's set-up in it, stands beside. The
ratio is to hoist at its defaults in the same state of the cache, above 1 where hoist is faster.
"""
import json
import statistics
import sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def key_of(record):
    options = record.get("options", {})
    shown = " ".join(f"{v}" if k == "env" else f"{k}={v}" for k, v in sorted(options.items()))
    return record["loader"], shown


def number(value, digits=2, scale=1.0):
    return "–" if value is None else f"{value / scale:.{digits}f}"


def summary(records):
    """One row a loader and setting."""
    rows = {}
    for record in records:
        if "check" in record.get("options", {}):
            continue  # for its digest only; checking took time
        row = rows.setdefault(key_of(record), {"reps": [], "first": None, "error": None})
        if "error" in record:
            row["error"] = record["error"]
        elif "memory" in record:
            row["memory"], row["bytes"] = record["memory"], record["bytes"]
            row["said"] = record.get("said")
        else:
            row["bytes"] = record["bytes"]
            if record["rep"] == 0:
                row["first"] = record
            else:
                row["reps"].append(record)
    for row in rows.values():
        timed = row["reps"] or ([row["first"]] if row["first"] else [])
        row["rate"] = statistics.median(r["bytes_per_second"] for r in timed) if timed else None
        row["cpu"] = statistics.median(r["cpu_seconds"] for r in timed) if timed else None
    return rows


def table(rows, link):
    hoist = rows.get(("hoist", ""), {}).get("rate")
    lines = [
        "| loader | settings | GB/s | of the link | hoist ÷ it | first, GB/s | CPU s | start to ready, s | device above weights, MiB | host, MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    def order(item):
        return -(item[1]["rate"] or 0)

    for (loader, shown), row in sorted(rows.items(), key=order):
        if row["rate"] is None and "memory" not in row:
            lines.append(f"| {loader} | {shown or 'default'} | failed: {row['error']} | | | | | | | |")
            continue
        first, memory = row["first"], row.get("memory") or {}
        device = memory.get("device_peak_bytes_of_process")
        host = memory.get("host_peak_bytes_of_call" if loader != "hoist" else "host_peak_bytes_of_process")
        lines.append(
            f"| {loader} | {shown or 'default'} | {number(row['rate'], 2, 1e9)} "
            f"| {number(100 * row['rate'] / link, 0) + ' %' if link and row['rate'] else '–'} "
            f"| {number(hoist / row['rate'] if hoist and row['rate'] else None)} "
            f"| {number(first['bytes_per_second'] if first else None, 2, 1e9)} | {number(row['cpu'])} "
            f"| {number(first['start_to_ready_seconds'] if first else None)} "
            f"| {number(None if device is None else device - row['bytes'], 0, 2**20)} | {number(host, 0, 2**20)} |"
        )
    return lines


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    records = read(sys.argv[1])
    lines = ["# Loads to the GPU", ""]
    lines += [f"- {name}: {value}" for r in records if "machine" in r for name, value in r["machine"].items()]
    pinned = [r["gb_per_s"] for r in records if r.get("test") == "pinned"]
    link = max(pinned) * 1e9 if pinned else None
    if link:
        lines.append(f"- link, host to device from pinned memory: {link / 1e9:.1f} GB/s")
    lines.append("")
    loads = [r for r in records if "loader" in r]
    any_load = False
    for state in ("hot", "cold"):
        mine = [r for r in loads if r.get("cache") == state]
        if mine:
            any_load = True
            resident = [r["resident"] for r in mine if r.get("resident") is not None]
            between = f"{min(resident):.3f}–{max(resident):.3f}" if resident else "unknown"
            lines += [f"## {state.capitalize()} page cache (resident before each load: {between})", ""]
            lines += table(summary(mine), link) + [""]
    if any_load:
        lines += [
            "The rate is the median of the repetitions after the first. Device memory is the peak of the whole process, CUDA",
            "context included, above the weights; host memory is what became unavailable during the call (for hoist: during",
            "the whole process), pinned memory included.",
            "",
        ]
    digests = {}
    for record in loads:
        if "digest" in record:
            digests.setdefault(record["digest"], []).append(" ".join(filter(None, key_of(record))))
    if digests:
        lines += ["## Digests", ""]
        lines += [f"- `{value}`: {', '.join(sorted(set(who)))}" for value, who in sorted(digests.items())]
        lines.append("")
    tests = [r for r in records if "test" in r]
    if tests:
        lines += ["## Limits", "", "| test | settings | GB/s | CPU s per GB |", "|---|---|--:|--:|"]
        for record in tests:
            known = ("section", "test", "gb_per_s", "cpu_seconds_per_gb")
            rest = " ".join(f"{k}={v}" for k, v in record.items() if k not in known)
            rate, cpu = record.get("gb_per_s"), record.get("cpu_seconds_per_gb")
            lines.append(f"| {record['test']} | {rest} | {number(rate)} | {number(cpu, 3)} |")
        lines.append("")
    failed = [r for r in records if "failed" in r]
    if failed:
        lines += ["## Failed steps", ""] + [f"- {r['failed']}: {r['why']}" for r in failed] + [""]
    text = "\n".join(lines)
    if len(sys.argv) == 3:
        with open(sys.argv[2], "w", encoding="utf-8") as out:
            out.write(text)
    print(text)
    if len(digests) > 1:
        sys.exit("FAILED: the loaders do not agree on the weights")


if __name__ == "__main__":
    main()
