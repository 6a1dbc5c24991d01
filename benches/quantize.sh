#!/usr/bin/env bash
# Quantising from a hot page cache, hoist against copying, against the packages that are used today, and against llama-quantize,
# in one run on one machine.
#
# usage: benches/quantize.sh [SIZE] [SECTION…]           sections: copy methods ggml memory (default: all)
#
#   copy      `int4` by rtn, against `cat` of the source, `cp` of as many bytes as it writes, and `sync`: at most 1.25 times
#             as long. `search` and `fp8` beside it, without a limit
#   methods   `search` in CPU seconds, reading, packing and writing included, against hqq's optimiser (at least 100 times as
#             fast) and llm-compressor's MSE observer (80 times), of which only the choice of codes is timed; same matrices
#   ggml      q4_0 (at least 3 times as fast), q4_k_m (8 times), and others without a limit, straight from safetensors,
#             against llama-quantize with as many threads from a ready f16 GGUF
#   memory    peak of the process for a model several times larger than the limit of 600 MiB
#
# Each side ends with `sync` of the files that it wrote, which is timed; what it wrote is removed before the next run. Runs
# alternate (A B, B A, …). Ratios are of medians, above 1 where hoist is faster; CPU seconds stand beside wall seconds.
#
# environment:
#   HOIST, PLAIN_READ   built binaries (default: built here with cargo, in release)
#   INT4_PYTHON         a Python with hqq, and one with llmcompressor and compressed-tensors (PYTHONPATH may add to it);
#                       without it the section `methods` is left out, aloud
#   LLAMA_QUANTIZE      llama-quantize; without it the section `ggml` is left out, aloud
#   TYPES="q4_0 q4_k_m q5_k_m q6_k q3_k_m iq4_xs"   types of the section `ggml`
#   METHOD_SIZE=100MB   the model of `methods`;   MEMORY_SIZE=4GB   that of `memory`
#   PLACE=              a folder to work in (default: "${TMPDIR:-/tmp}"); needs three times SIZE
#   PAIRS=7  OUT=  LIMITS=1   as in convert.sh
set -euo pipefail
export LC_ALL=C.UTF-8 HOIST_QUIET=1 HOIST_PROGRESS=none
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
size=1GB
if [[ ${1:-} =~ ^[0-9] ]]; then size=$1; shift; fi
sections=" ${*:-copy methods ggml memory} "
for s in $sections; do
  case $s in copy|methods|ggml|memory) ;; *) echo "quantize.sh: no section $s" >&2; exit 2 ;; esac
done
pairs=${PAIRS:-7}
limits=${LIMITS:-1}
python3=$(command -v python3) || { echo "quantize.sh: python3 is needed for the statistics" >&2; exit 3; }
threads=$(nproc)

place=$(mktemp -d "${PLACE:-${TMPDIR:-/tmp}}/hoist-bench.XXXXXX")
trap 'rm -rf "$place"' EXIT
out=${OUT:-$place/out}
mkdir -p "$out"
rm -f "$out/results.jsonl"
to=$place/to

build() { (cd "$root" && cargo build --release --quiet "$@"); }
target=${CARGO_TARGET_DIR:-$root/target}/release
[[ -n ${HOIST:-} ]] || { build --bin hoist; HOIST=$target/hoist; }
[[ -n ${PLAIN_READ:-} ]] || { build --example plain_read; PLAIN_READ=$target/examples/plain_read; }

# timed COMMAND…: runs it, then syncs what lies below $to, and prints the report of the whole as a line. $to is made anew.
timed() {
  rm -rf "$to"
  mkdir -p "$to"
  # shellcheck disable=SC2016
  "$PLAIN_READ" --exec "$place/report" bash -c 'set -e; to=$1; shift; "$@" > /dev/null; find "$to" -type f -exec sync {} +' - "$to" "$@" > "$place/log" 2>&1 ||
    { tail -20 "$place/log" >&2; echo "quantize.sh: failed: $*" >&2; exit 1; }
  cat "$place/report"
}

hoist_int4() { timed "$HOIST" quantize "$model" -o "$to/model" --scheme "${scheme:-int4}" --method "${method:-rtn}"; }
hoist_rtn() { method=rtn hoist_int4; }
hoist_search() { method=search hoist_int4; }
hoist_fp8() { scheme=fp8 method=rtn hoist_int4; }
# shellcheck disable=SC2016
cat_cp() { timed bash -c 'cat "$1"/*.safetensors > /dev/null; cp "$2"/* "$3"' - "$model" "$written" "$to"; }
hoist_gguf() { timed "$HOIST" quantize "$model" -o "$to/model.gguf" --scheme "$type" --threads "$threads"; }
llama_quantize() { timed "$LLAMA_QUANTIZE" "$place/f16.gguf" "$to/model.gguf" "$type" "$threads"; }
# One thread each, so that CPU seconds hold no waiting for each other.
hoist_method() { timed "$HOIST" quantize "$place/small" -o "$to/model" $arguments --threads 1; }
package() { "$INT4_PYTHON" "$here/rivals/quantize.py" "$package" "$place"/small/*.safetensors 2> "$place/log" | tail -1; }

failed=0
# compare NAME LEAST FIELD A B: one run of each to warm up, then alternating pairs; the ratio must be at least LEAST.
compare() {
  local name=$1 least=$2 field=$3 a=$4 b=$5 i
  local file_a=$out/$name.$a.jsonl file_b=$out/$name.$b.jsonl
  "$a" > /dev/null
  "$b" > /dev/null
  : > "$file_a"
  : > "$file_b"
  for ((i = 0; i < pairs; i++)); do
    if ((i % 2)); then "$b" >> "$file_b"; "$a" >> "$file_a"; else "$a" >> "$file_a"; "$b" >> "$file_b"; fi
  done
  local bound=()
  [[ $limits == 0 || $least == 0 ]] || bound=(--ratio-min "$least")
  $python3 "$here/stats.py" "$name" "$file_a" "$file_b" --labels "$a,$b" --field "$field" --out "$out/results.jsonl" "${bound[@]}" || failed=1
}

# A tokenizer that fits no vocabulary is padded; what it holds does not matter here.
make_model() {
  "$HOIST" synth "$1" --size "$2" --shards "${3:-4}" > /dev/null
  cp "$root"/testdata/tokenizers/llama-spm/* "$1"
  cat "$1"/*.safetensors > /dev/null
}

model=$place/model
if [[ $sections == *" copy "* || $sections == *" ggml "* ]]; then
  make_model "$model" "$size"
  resident=$("$PLAIN_READ" --resident "$model"/*.safetensors)
  $python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.999)' "$resident" ||
    { echo "quantize.sh: only $resident of the model stays in the page cache; take a smaller SIZE" >&2; exit 8; }
  bytes=$(cat "$model"/*.safetensors | wc -c)
  echo "$place ($(stat -f -c %T "$place")): $((bytes / 1000000)) MB in the page cache; $threads cores; load $(cut -d' ' -f1-3 /proc/loadavg)"
fi
if [[ $sections == *" copy "* ]]; then
  written=$place/written
  "$HOIST" quantize "$model" -o "$written" --method rtn > /dev/null
  compare int4-rtn 0.8 seconds hoist_rtn cat_cp
  compare int4-search 0 seconds hoist_search cat_cp
  "$HOIST" quantize "$model" -o "$written" --scheme fp8 --force > /dev/null
  compare fp8 0 seconds hoist_fp8 cat_cp
  rm -rf "$written"
fi
if [[ $sections == *" methods "* ]]; then
  if [[ -z ${INT4_PYTHON:-} ]]; then
    echo "methods: left out, INT4_PYTHON names no Python with hqq and llmcompressor" >&2
  else
    make_model "$place/small" "${METHOD_SIZE:-100MB}" 1
    saved=$pairs pairs=3
    arguments='--scheme int4 --asymmetric' package=hqq
    compare search-asymmetric.hqq 100 cpu_seconds hoist_method package
    package=llmcompressor-mse
    compare search-asymmetric.mse 80 cpu_seconds hoist_method package
    arguments='--scheme int4 --symmetric' package=llmcompressor-mse-symmetric
    compare search-symmetric.mse 80 cpu_seconds hoist_method package
    arguments='--scheme mlx --group-size 128' package=hqq
    compare search-affine.hqq 0 cpu_seconds hoist_method package
    pairs=$saved
    rm -rf "$place/small"
  fi
fi
if [[ $sections == *" ggml "* ]]; then
  if [[ -z ${LLAMA_QUANTIZE:-} ]]; then
    echo "ggml: left out, LLAMA_QUANTIZE names no llama-quantize" >&2
  else
    "$HOIST" convert "$model" -o "$place/f16.gguf" --dtype f16 > /dev/null
    for type in ${TYPES:-q4_0 q4_k_m q5_k_m q6_k q3_k_m iq4_xs}; do
      case $type in q4_0) least=3 ;; q4_k_m) least=8 ;; *) least=0 ;; esac
      compare "$type" "$least" seconds hoist_gguf llama_quantize
    done
    rm -f "$place/f16.gguf"
  fi
fi
rm -rf "$model"
if [[ $sections == *" memory "* ]]; then
  make_model "$model" "${MEMORY_SIZE:-4GB}"
  for line in "model --scheme int4" "model --scheme gptq" "model.gguf --scheme q4_k_m"; do
    read -r name arguments <<< "$line"
    # shellcheck disable=SC2086
    timed "$HOIST" quantize "$model" -o "$to/$name" $arguments > "$out/memory.jsonl"
    $python3 - "$line" "$out/memory.jsonl" "$limits" << 'P' || failed=1
import json, sys
report = json.loads(open(sys.argv[2]).read())
peak = report["peak_rss_bytes"]
print(f"memory {sys.argv[1]}: {peak / 2**20:.0f} MiB at most")
sys.exit(sys.argv[3] != "0" and peak > 600 << 20)
P
  done
fi
exit $failed
