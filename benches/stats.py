#!/usr/bin/env python3
"""Compares two contenders that were measured in alternation. Standard library only.

usage: stats.py NAME A.jsonl B.jsonl [--field bytes_per_second] [--out RESULTS.jsonl] [--ratio-min R]

Each file has a JSON line a run. Prints medians with least and greatest, CPU seconds beside wall seconds, and the ratio of
medians A/B of the field (a rate: above 1 means that A is faster; with --field seconds it is B/A, so that above 1 still
means so). With --ratio-min the exit code is 1 if the ratio is below R. A run with an `error` makes it 1 as well.
"""
import argparse
import json
import statistics
import sys


def read(path):
    with open(path, encoding="utf-8") as lines:
        runs = [json.loads(line) for line in lines if line.strip()]
    if not runs:
        sys.exit(f"stats.py: {path}: no runs")
    for run in runs:
        if run.get("error") or run.get("exit_code", 0) != 0:
            sys.exit(f"stats.py: {path}: a run failed: {json.dumps(run)}")
    return runs


def spread(runs, field):
    values = [run[field] for run in runs if run.get(field) is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def shown(facts, scale, digits, unit):
    if facts is None:
        return "-"
    median, least, most = (facts[k] / scale for k in ("median", "min", "max"))
    return f"{median:.{digits}f} {unit} ({least:.{digits}f}–{most:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--labels", default="hoist,rival")
    parser.add_argument("--field", default="bytes_per_second", choices=["bytes_per_second", "seconds", "cpu_seconds"])
    parser.add_argument("--out")
    parser.add_argument("--ratio-min", type=float)
    options = parser.parse_args()
    labels = options.labels.split(",")
    sides = [read(options.a), read(options.b)]
    moved = [run["bytes"] for side in sides for run in side if "bytes" in run]
    # Headers count for one and not for another; anything more is a different job.
    if moved and max(moved) > 1.005 * min(moved):
        sys.exit(f"stats.py: {options.name}: the two moved different numbers of bytes")
    record = {"comparison": options.name, "pairs": min(map(len, sides))}
    print(f"\n{options.name}  ({record['pairs']} alternating pairs; median, least–most)")
    for label, side in zip(labels, sides):
        facts = {f: spread(side, f) for f in ("bytes_per_second", "tokens_per_second", "seconds", "cpu_seconds", "peak_rss_bytes")}
        record[label] = facts | {"path": side[-1].get("path"), "threads": side[-1].get("threads")}
        rate = shown(facts["bytes_per_second"], 1e9, 2, "GB/s")
        if facts["tokens_per_second"]:
            rate = shown(facts["tokens_per_second"], 1, 1, "tokens/s")
        print(
            f"  {label:<18} {rate:<30} "
            f"{shown(facts['seconds'], 1, 3, 's'):<26} cpu {shown(facts['cpu_seconds'], 1, 3, 's'):<26} "
            f"rss {shown(facts['peak_rss_bytes'], 2**20, 0, 'MiB')}"
        )
    medians = [record[label][options.field]["median"] for label in labels]
    ratio = medians[0] / medians[1] if options.field == "bytes_per_second" else medians[1] / medians[0]
    cpu = [record[label]["cpu_seconds"] for label in labels]
    record["speed_ratio"] = ratio
    record["cpu_ratio"] = cpu[0]["median"] / cpu[1]["median"] if all(cpu) and cpu[1]["median"] else None
    cpu_text = "-" if record["cpu_ratio"] is None else f"{record['cpu_ratio']:.3f}"
    print(f"  {labels[0]} / {labels[1]}: speed {ratio:.3f}   cpu seconds {cpu_text}")
    if options.out:
        with open(options.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
    if options.ratio_min is not None and ratio < options.ratio_min:
        print(f"  FAILED: {ratio:.3f} is below {options.ratio_min}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
