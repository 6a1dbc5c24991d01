#!/usr/bin/env bash
# Conversions from a hot page cache, hoist against `cp` and against the converters of others, in one run on one machine.
#
# usage: benches/convert.sh [SIZE] [SECTION…]            sections: copy cast gguf torch memory (default: all)
#
#   copy     .bin → safetensors, safetensors reshard, safetensors → GGUF of the same dtype, against `cp` of the source's
#            weights: at most 1.15 times as long
#   cast     bf16 → f16 of a sharded checkpoint, against the same `cp`: at most 1.3 times
#   gguf     safetensors → GGUF f16 and q8_0, against llama.cpp's convert_hf_to_gguf.py: at least 8 times as fast
#   torch    .bin → safetensors, against torch.load and save_file: at least 3 times as fast, process against process; the
#            same without Python's start and imports beside it, without a limit: the disk sets one
#   memory   peak of the process while converting a model several times larger than the limit of 600 MiB
#
# Each side ends with `sync` of the files that it wrote, which is timed; what it wrote is removed before the next run, which
# is not. Runs alternate (A B, B A, …), so that a machine that warms up or a neighbour that wakes hits both. The ratio is of
# medians, above 1 where hoist is faster. CPU seconds stand beside wall seconds. All of it is done in each of PLACES, source
# and target on the same file system.
#
# environment:
#   HOIST, PLAIN_READ   built binaries (default: built here with cargo, in release)
#   HOIST_PYTHON        a Python with torch and safetensors; without it rows that start from a .bin or are Python's are left
#                       out, aloud
#   LLAMACPP            a folder of tests/clients/get_llamacpp.sh; without it the section `gguf` is left out, aloud
#   PLACES              folders to work in (default: "${TMPDIR:-/tmp} /dev/shm"); each needs three times SIZE
#   MEMORY_SIZE=4GB     the model of the section `memory`
#   PAIRS=9  OUT=       as in load.sh
#   LIMITS=1            0: print ratios without failing on them
set -euo pipefail
export LC_ALL=C.UTF-8 HOIST_QUIET=1 HOIST_PROGRESS=none
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
size=1GB
if [[ ${1:-} =~ ^[0-9] ]]; then size=$1; shift; fi
sections=" ${*:-copy cast gguf torch memory} "
for s in $sections; do
  case $s in copy|cast|gguf|torch|memory) ;; *) echo "convert.sh: no section $s" >&2; exit 2 ;; esac
done
pairs=${PAIRS:-9}
limits=${LIMITS:-1}
python3=$(command -v python3) || { echo "convert.sh: python3 is needed for the statistics" >&2; exit 3; }

work=$(mktemp -d "${TMPDIR:-/tmp}/hoist-bench.XXXXXX")
place=
trap 'rm -rf "$work" ${place:+"$place"}' EXIT
out=${OUT:-$work/out}
mkdir -p "$out"
rm -f "$out/results.jsonl"

build() { (cd "$root" && cargo build --release --quiet "$@"); }
target=${CARGO_TARGET_DIR:-$root/target}/release
[[ -n ${HOIST:-} ]] || { build --bin hoist; HOIST=$target/hoist; }
[[ -n ${PLAIN_READ:-} ]] || { build --example plain_read; PLAIN_READ=$target/examples/plain_read; }

# timed COMMAND…: runs it, then syncs what lies below $to, and prints the report of the whole as a line. $to is made anew.
timed() {
  rm -rf "$to"
  mkdir -p "$to"
  # shellcheck disable=SC2016
  "$PLAIN_READ" --exec "$work/report" bash -c 'set -e; to=$1; shift; "$@" > /dev/null; find "$to" -type f -exec sync {} +' - "$to" "$@" > "$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; echo "convert.sh: failed: $*" >&2; exit 1; }
  cat "$work/report"
}

# Contenders of the place that is being measured; $model is a sharded safetensors checkpoint, $bin the same as .bin.
cp_safetensors() { timed cp "$model"/*.safetensors "$to"; }
cp_bin() { timed cp "$bin"/*.bin "$to"; }
hoist_bin() { timed "$HOIST" convert "$bin" -o "$to/model"; }
hoist_reshard() { timed "$HOIST" convert "$model" -o "$to/model" --shard-size "$shard_bytes"; }
hoist_gguf_same() { timed "$HOIST" convert "$model" -o "$to/model.gguf"; }
hoist_cast() { timed "$HOIST" convert "$model" -o "$to/model" --dtype f16; }
hoist_gguf_f16() { timed "$HOIST" convert "$model" -o "$to/model.gguf" --dtype f16; }
hoist_gguf_q8_0() { timed "$HOIST" convert "$model" -o "$to/model.gguf" --dtype q8_0; }
llamacpp() { timed "$HOIST_PYTHON" "$root/tests/clients/convert_reference.py" -- "$model" --outfile "$to/model.gguf" --outtype "$1"; }
llamacpp_f16() { llamacpp f16; }
llamacpp_q8_0() { llamacpp q8_0; }
torch_process() { timed "$HOIST_PYTHON" "$here/rivals/convert.py" bin-to-safetensors "$bin" "$to"; }
torch_to_safetensors() { rm -rf "$to"; mkdir -p "$to"; "$HOIST_PYTHON" "$here/rivals/convert.py" bin-to-safetensors "$bin" "$to"; }

failed=0
# compare NAME LEAST A B: one run of each to warm up, then alternating pairs; the ratio must be at least LEAST.
compare() {
  local name=$1 least=$2 a=$3 b=$4 i
  local file_a=$out/$name.$a.jsonl file_b=$out/$name.$b.jsonl
  "$a" > /dev/null
  "$b" > /dev/null
  : > "$file_a"
  : > "$file_b"
  for ((i = 0; i < pairs; i++)); do
    if ((i % 2)); then "$b" >> "$file_b"; "$a" >> "$file_a"; else "$a" >> "$file_a"; "$b" >> "$file_b"; fi
  done
  local bound=()
  [[ $limits == 0 ]] || bound=(--ratio-min "$least")
  $python3 "$here/stats.py" "$name" "$file_a" "$file_b" --labels "$a,$b" --field seconds --out "$out/results.jsonl" "${bound[@]}" || failed=1
}

without() { echo "$1: left out, $2" >&2; }
needs_python() { [[ -n ${HOIST_PYTHON:-} ]] || { without "$1" "HOIST_PYTHON names no Python with torch and safetensors"; return 1; }; }

# A tokenizer that fits no vocabulary is padded by both converters; what it holds does not matter here.
make_model() {
  "$HOIST" synth "$1" --size "$2" --shards 4 > /dev/null
  cp "$root"/testdata/tokenizers/llama-spm/* "$1"
}

for where in ${PLACES:-${TMPDIR:-/tmp} /dev/shm}; do
  place=$(mktemp -d "$where/hoist-bench.XXXXXX")
  label=$(basename "$where")
  model=$place/model bin=$place/bin to=$place/to
  if [[ $sections == *" copy "* || $sections == *" cast "* || $sections == *" gguf "* || $sections == *" torch "* ]]; then
    make_model "$model" "$size"
    cat "$model"/*.safetensors > /dev/null
    resident=$("$PLAIN_READ" --resident "$model"/*.safetensors)
    $python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.999)' "$resident" ||
      { echo "convert.sh: only $resident of the model stays in the page cache; take a smaller SIZE" >&2; exit 8; }
    bytes=$(cat "$model"/*.safetensors | wc -c)
    shard_bytes=$((bytes / 3 + 1))
    echo "$where ($(stat -f -c %T "$where")): $((bytes / 1000000)) MB in 4 files, in the page cache; $(nproc) cores; load $(cut -d' ' -f1-3 /proc/loadavg)"
  fi
  if [[ $sections == *" copy "* || $sections == *" torch "* ]] && needs_python "rows from .bin"; then
    "$HOIST_PYTHON" "$here/rivals/to_torch.py" "$bin" "$model"/*.safetensors > /dev/null
    cp "$model/config.json" "$bin"
  fi
  for section in $sections; do
    case $section in
      copy)
        [[ ! -d $bin ]] || compare "bin-to-safetensors-$label" 0.8696 hoist_bin cp_bin
        compare "reshard-$label" 0.8696 hoist_reshard cp_safetensors
        compare "gguf-same-$label" 0.8696 hoist_gguf_same cp_safetensors
        ;;
      cast) compare "cast-f16-$label" 0.7692 hoist_cast cp_safetensors ;;
      gguf)
        needs_python gguf || continue
        [[ -n ${LLAMACPP:-} ]] || { without gguf "LLAMACPP names no folder of tests/clients/get_llamacpp.sh"; continue; }
        compare "gguf-f16-$label" 8 hoist_gguf_f16 llamacpp_f16
        compare "gguf-q8_0-$label" 8 hoist_gguf_q8_0 llamacpp_q8_0
        ;;
      torch)
        [[ -d $bin ]] || continue
        compare "torch-$label" 3 hoist_bin torch_process
        compare "torch-calls-$label" 0 hoist_bin torch_to_safetensors
        ;;
    esac
  done
  rm -rf "$place"
  place=
done

# Not in each place: memory is the same everywhere.
if [[ $sections == *" memory "* ]]; then
  place=$(mktemp -d "${TMPDIR:-/tmp}/hoist-bench.XXXXXX")
  model=$place/model to=$place/to
  make_model "$model" "${MEMORY_SIZE:-4GB}"
  for what in "reshard --shard-size 1GB" "cast --dtype f16" "gguf --dtype q8_0"; do
    read -r name flags <<< "$what"
    target_name=$to/model
    [[ $name != gguf ]] || target_name=$to/model.gguf
    # shellcheck disable=SC2086
    timed "$HOIST" convert "$model" -o "$target_name" $flags > "$work/line"
    $python3 - "memory-$name" "$work/line" "$out/results.jsonl" <<'P' || failed=1
import json, sys
name, report, out = sys.argv[1:]
peak, limit = json.load(open(report))["peak_rss_bytes"], 600 << 20
print(f"{name}: peak {peak / 2**20:.0f} MiB, limit {limit / 2**20:.0f} MiB" + ("" if peak <= limit else "   FAILED"))
with open(out, "a") as f:
    f.write(json.dumps({"check": name, "peak_rss_bytes": peak, "limit_bytes": limit, "ok": peak <= limit}) + "\n")
sys.exit(peak > limit)
P
  done
fi
echo
[[ -z ${OUT:-} ]] || echo "results: $out/results.jsonl"
((failed == 0)) || { echo "FAILED: see above" >&2; exit 1; }
