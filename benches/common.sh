# What the comparisons share, to be sourced by them: where things are, binaries, runs in turn, limits.
# shellcheck shell=bash
export LC_ALL=C.UTF-8 HOIST_QUIET=1 HOIST_PROGRESS=none
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
failed=0

# die CODE WHY
die() { echo "$(basename "$0"): $2" >&2; exit "$1"; }

# without SECTION WHY: says that it is left out.
without() { echo "$1: left out, $2" >&2; }

python3=$(command -v python3) || die 3 "python3 is needed for the statistics"
work=$(mktemp -d "${PLACE:-${TMPDIR:-/tmp}}/hoist-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
out=${OUT:-$work/out}
mkdir -p "$out"
rm -f "$out/results.jsonl"

# choose "ALL…" [SIZE] [SECTION…]: sets $size and $sections.
choose() {
  local all=$1 s
  shift
  size=1GB
  if [[ ${1:-} =~ ^[0-9] ]]; then size=$1; shift; fi
  sections=" ${*:-$all} "
  for s in $sections; do
    [[ " $all " == *" $s "* ]] || die 2 "no section $s"
  done
}
has() { [[ $sections == *" $1 "* ]]; }

build() { (cd "$root" && cargo build --release --quiet "$@"); }
target=${CARGO_TARGET_DIR:-$root/target}/release
needs_hoist() { [[ -n ${HOIST:-} ]] || { build --bin hoist; HOIST=$target/hoist; }; }
needs_choose_codes() { [[ -n ${CHOOSE_CODES:-} ]] || { build --example choose_codes; CHOOSE_CODES=$target/examples/choose_codes; }; }
needs_plain_read() { [[ -n ${PLAIN_READ:-} ]] || { build --example plain_read; PLAIN_READ=$target/examples/plain_read; }; }

# hot FILE…: brings them into the page cache, and ends where they do not stay there.
hot() {
  local resident
  cat "$@" > /dev/null
  resident=$("$PLAIN_READ" --resident "$@")
  $python3 -c 'import sys; sys.exit(float(sys.argv[1]) < 0.999)' "$resident" ||
    die 8 "only $resident of the model stays in the page cache; take a smaller SIZE"
}
machine() { echo "$(nproc) cores; load $(cut -d' ' -f1-3 /proc/loadavg)"; }

# make_model DIR SIZE [SHARDS]. A tokenizer that fits no vocabulary is padded by all converters; what it holds does not matter.
make_model() {
  "$HOIST" synth "$1" --size "$2" --shards "${3:-4}" > /dev/null
  cp "$root"/testdata/tokenizers/llama-spm/* "$1"
}

# timed COMMAND…: runs it, then syncs what lies below $to, and prints the report of the whole as a line. $to is made anew.
timed() {
  rm -rf "$to"
  mkdir -p "$to"
  # shellcheck disable=SC2016
  "$PLAIN_READ" --exec "$work/report" bash -c 'set -e; to=$1; shift; "$@" > /dev/null; find "$to" -type f -exec sync {} +' - "$to" "$@" > "$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; die 1 "failed: $*"; }
  cat "$work/report"
}

# compare NAME LEAST A B [stats.py's flags]: one run of each to warm up, then alternating pairs; the ratio must be at least
# LEAST, unless that is 0 or LIMITS is.
compare() {
  local name=$1 least=$2 a=$3 b=$4 i bound=()
  shift 4
  local file_a=$out/$name.$a.jsonl file_b=$out/$name.$b.jsonl
  "$a" > /dev/null
  "$b" > /dev/null
  : > "$file_a"
  : > "$file_b"
  for ((i = 0; i < pairs; i++)); do
    if ((i % 2)); then "$b" >> "$file_b"; "$a" >> "$file_a"; else "$a" >> "$file_a"; "$b" >> "$file_b"; fi
  done
  [[ ${LIMITS:-1} == 0 || $least == 0 ]] || bound=(--ratio-min "$least")
  $python3 "$here/stats.py" "$name" "$file_a" "$file_b" --labels "$a,$b" --out "$out/results.jsonl" "${bound[@]}" "$@" || failed=1
}

# at_most NAME BYTES REPORT [SAID]: a process's peak of memory, as the kernel counts it and, where SAID is there, as hoist says.
at_most() {
  $python3 - "${LIMITS:-1}" "$out/results.jsonl" "$@" << 'P' || failed=1
import json, sys
limits, out, name, limit, report, *said = sys.argv[1:]
limit = int(limit)
peak = json.load(open(report))["peak_rss_bytes"]
ok = peak <= limit or limits == "0"
# What hoist says of itself is compared with the kernel's word: it may not flatter by more than a few MiB.
own = json.load(open(said[0]))["peak_rss_bytes"] if said else peak
honest = own is not None and own >= peak - (8 << 20)
words = f", hoist says {'-' if own is None else round(own / 2**20)} MiB" if said else ""
print(f"{name}: peak {peak / 2**20:.0f} MiB{words}, limit {limit / 2**20:.0f} MiB"
      + ("" if ok else "   FAILED") + ("" if honest else "   FAILED: hoist's own figure differs"))
with open(out, "a") as f:
    f.write(json.dumps({"check": name, "peak_rss_bytes": peak, "said_bytes": own, "limit_bytes": limit, "ok": ok and honest}) + "\n")
sys.exit(not (ok and honest))
P
}

# The last line of each.
finish() {
  echo
  [[ -z ${OUT:-} ]] || echo "results: $out/results.jsonl"
  ((failed == 0)) || { echo "FAILED: see above" >&2; exit 1; }
}
