#!/usr/bin/env bash
# Loads from a hot page cache, hoist against plain rivals, on one machine and in one run.
#
# usage: benches/load.sh [SIZE] [SECTION…]            sections: copy mapped process python device memory (default: all)
#
#   copy      hoist load --device cpu --copy            against a plain parallel pread loop
#   mapped    hoist load --device cpu                   against bare parallel MADV_POPULATE_READ
#   process   the whole process of a mapped hoist load  against `cat FILES > /dev/null`
#   python    hoist load --device cpu --copy            against safetensors' load_file + clone, and torch.load
#   device    hoist load --device cuda:0, emulated, its copies free, against the same plain loop, and against one that
#             reads into reused chunks
#   memory    peak memory: weights + 100 MiB on the CPU, 200 MiB in all on the way to an (emulated) device
#
# Runs alternate (A B, B A, …), so that a machine that warms up or a neighbour that wakes hits both. The ratio is of
# medians. CPU seconds stand beside wall seconds: on a shared machine they are the steadier figure.
#
# environment:
#   HOIST, PLAIN_READ   built binaries (default: built here with cargo, in release)
#   FAKE_DRIVER         the emulated driver's library (default: built here)
#   HOIST_PYTHON        a Python with torch and safetensors; without it the section `python` is left out, aloud
#   MODEL               a directory of .safetensors files (default: made by `hoist synth`, removed at the end)
#   PAIRS=9  THREADS=   (empty: hoist's own choice for hoist, all cores for the rivals)
#   OUT=                where results.jsonl and the single runs stay (default: nowhere)
#   RATIO_MIN=          exit with 1 if a speed ratio is below this
set -euo pipefail
export LC_ALL=C.UTF-8 HOIST_QUIET=1 HOIST_PROGRESS=none
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
size=1GB
if [[ ${1:-} =~ ^[0-9] ]]; then size=$1; shift; fi
sections=" ${*:-copy mapped process python device memory} "
for s in $sections; do
  case $s in copy|mapped|process|python|device|memory) ;; *) echo "load.sh: no section $s" >&2; exit 2 ;; esac
done
pairs=${PAIRS:-9}
threads=${THREADS:-}
python3=$(command -v python3) || { echo "load.sh: python3 is needed for the statistics" >&2; exit 3; }

work=$(mktemp -d "${TMPDIR:-/tmp}/hoist-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
out=${OUT:-$work/out}
mkdir -p "$out"
rm -f "$out/results.jsonl"

build() { (cd "$root" && cargo build --release --quiet "$@"); }
target=${CARGO_TARGET_DIR:-$root/target}/release
[[ -n ${HOIST:-} ]] || { build --bin hoist; HOIST=$target/hoist; }
[[ -n ${PLAIN_READ:-} ]] || { build --example plain_read; PLAIN_READ=$target/examples/plain_read; }

if [[ -z ${MODEL:-} ]]; then
  MODEL=$work/model
  "$HOIST" synth "$MODEL" --size "$size" --shards 4
fi
files=("$MODEL"/*.safetensors)
cat "${files[@]}" > /dev/null
resident=$("$PLAIN_READ" --resident "${files[@]}")
$python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.999)' "$resident" ||
  { echo "load.sh: only $resident of the model stays in the page cache; take a smaller SIZE" >&2; exit 8; }
echo "model: $(du -chL "${files[@]}" | tail -1 | cut -f1) in ${#files[@]} files, in the page cache; $(nproc) cores; load $(cut -d' ' -f1-3 /proc/loadavg)"

hoist_threads=(${threads:+--threads "$threads"})
rival_threads=(${threads:+--threads "$threads"})

# A device of any size costs nothing while its copies are free: nobody touches its memory.
emulated=("LD_LIBRARY_PATH=$work/driver" FAKE_CUDA_FREE_COPIES=1 FAKE_CUDA_MEM=$((1 << 40)))

# A contender prints one JSON document a run; `lined` makes it one line, after the run: a Python that starts beside it would
# take one of its cores.
lined() { "$@" > "$work/document" && $python3 -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))))' "$work/document"; }
hoist_copy() { lined "$HOIST" load "$MODEL" --device cpu --copy --json "${hoist_threads[@]}"; }
hoist_mapped() { lined "$HOIST" load "$MODEL" --device cpu --json "${hoist_threads[@]}"; }
plain_copy() { "$PLAIN_READ" "${rival_threads[@]}" "${files[@]}"; }
plain_populate() { "$PLAIN_READ" --populate "${rival_threads[@]}" "${files[@]}"; }
plain_device() { "$PLAIN_READ" --h2d-free "${rival_threads[@]}" "${files[@]}"; }
process_hoist() { "$PLAIN_READ" --exec "$work/report" "$HOIST" load "$MODEL" --device cpu "${hoist_threads[@]}" > /dev/null; cat "$work/report"; }
process_cat() { "$PLAIN_READ" --exec "$work/report" cat "${files[@]}" > /dev/null; cat "$work/report"; }
python_safetensors() { "$HOIST_PYTHON" "$here/rivals/cpu_load.py" safetensors-clone "${files[@]}"; }
python_torch() { "$HOIST_PYTHON" "$here/rivals/cpu_load.py" torch-load "$work"/torch/*.bin; }
hoist_device() {
  lined env "${emulated[@]}" \
    "$HOIST" load "$MODEL" --device cuda:0 --json "${hoist_threads[@]}"
}

failed=0
# compare NAME A B [stats.py's flags]: one run of each to warm up, then alternating pairs.
compare() {
  local name=$1 a=$2 b=$3 i
  shift 3
  local file_a=$out/$name.$a.jsonl file_b=$out/$name.$b.jsonl
  "$a" > /dev/null
  "$b" > /dev/null
  : > "$file_a"
  : > "$file_b"
  for ((i = 0; i < pairs; i++)); do
    if ((i % 2)); then "$b" >> "$file_b"; "$a" >> "$file_a"; else "$a" >> "$file_a"; "$b" >> "$file_b"; fi
  done
  $python3 "$here/stats.py" "$name" "$file_a" "$file_b" --labels "$a,$b" --out "$out/results.jsonl" \
    ${RATIO_MIN:+--ratio-min "$RATIO_MIN"} "$@" || failed=1
}

emulated_driver() {
  [[ -d $work/driver ]] && return
  if [[ -z ${FAKE_DRIVER:-} ]]; then
    build -p hoist-fake-driver
    FAKE_DRIVER=$target/libhoist_fake_driver.so
  fi
  # Only here, for child processes: a library of this name on any other path would be taken for the driver.
  mkdir "$work/driver"
  cp "$FAKE_DRIVER" "$work/driver/libcuda.so.1"
  cp "$FAKE_DRIVER" "$work/driver/libcuda.so"
  hoist_device | grep -q EMULATED || { echo "load.sh: another driver answered than the emulated one" >&2; exit 10; }
}

# at_most NAME BYTES COMMAND…: the whole process's peak of memory, as the kernel counts it and as hoist says.
at_most() {
  local name=$1 limit=$2
  shift 2
  "$PLAIN_READ" --exec "$work/report" "$@" > "$work/said"
  $python3 - "$name" "$limit" "$work/report" "$work/said" "$out/results.jsonl" <<'P' || failed=1
import json, sys
name, limit, report, said, out = sys.argv[1:]
limit = int(limit)
peak = json.load(open(report))["peak_rss_bytes"]
said = json.load(open(said))["peak_rss_bytes"]
ok = peak <= limit
# What hoist says of itself is compared with the kernel's word: it may not flatter by more than a few MiB.
honest = said is not None and said >= peak - (8 << 20)
print(f"{name}: peak {peak / 2**20:.0f} MiB, hoist says {'-' if said is None else round(said / 2**20)} MiB, limit {limit / 2**20:.0f} MiB"
      + ("" if ok else "   FAILED") + ("" if honest else "   FAILED: hoist's own figure differs"))
with open(out, "a") as f:
    f.write(json.dumps({"check": name, "peak_rss_bytes": peak, "said_bytes": said, "limit_bytes": limit, "ok": ok and honest}) + "\n")
sys.exit(not (ok and honest))
P
}

for section in $sections; do
  case $section in
    copy) compare copy hoist_copy plain_copy ;;
    mapped) compare mapped hoist_mapped plain_populate --field seconds ;;
    process) compare process process_hoist process_cat --field seconds ;;
    python)
      if [[ -z ${HOIST_PYTHON:-} ]]; then
        echo "python: left out, HOIST_PYTHON names no Python with torch and safetensors" >&2
        continue
      fi
      compare python-safetensors hoist_copy python_safetensors
      "$HOIST_PYTHON" "$here/rivals/to_torch.py" "$work/torch" "${files[@]}"
      compare python-torch hoist_copy python_torch
      rm -rf "$work/torch"
      ;;
    device)
      emulated_driver
      compare device hoist_device plain_copy
      compare device-reused hoist_device plain_device
      ;;
    memory)
      emulated_driver
      payload=$("$PLAIN_READ" --h2d-free "${files[@]}" | $python3 -c 'import json, sys; print(json.load(sys.stdin)["bytes"])')
      at_most memory-cpu-copy $((payload + (100 << 20))) "$HOIST" load "$MODEL" --device cpu --copy --json
      at_most memory-cpu-mapped $((payload + (100 << 20))) "$HOIST" load "$MODEL" --device cpu --json
      at_most memory-device $((200 << 20)) env "${emulated[@]}" \
        "$HOIST" load "$MODEL" --device cuda:0 --json
      ;;
  esac
done
echo
[[ -z ${OUT:-} ]] || echo "results: $out/results.jsonl"
((failed == 0)) || { echo "FAILED: see above" >&2; exit 1; }
