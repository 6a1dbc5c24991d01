#!/usr/bin/env bash
# The forward pass of `hoist verify` against candle-transformers' own model of the same weights, on the same token ids.
#
# usage: benches/verify.sh [SECTION…]                 sections: small large (default: both)
#
#   small    testdata/rustdoc-llama-6m: a prompt of 256 tokens, then 128 tokens one by one
#   large    a random Llama of 1.2 B parameters (Llama 3.2 1B's shape, by `hoist synth`): a prompt of 256 tokens, then 16
#
# Each in float32 and in bfloat16, on the same number of threads. The two stand in one binary (tests/candle_models), so that
# compiler, allocator and kernels are the same and the model code alone differs. A pass goes before the one that is timed. Both
# are given the same ids to decode, whatever they would have chosen; in float32 they must then say the same next token, or
# the comparison fails. Processes alternate (A B, B A, …); the ratio is of medians, above 1 where hoist is faster.
#
# environment:
#   CANDLE_MODELS   the built binary (default: built here with cargo, in release; candle-transformers takes minutes)
#   HOIST           for `large`: a built hoist that makes the model (default: built here)
#   MODEL           for `large`: a Llama's directory instead
#   PAIRS=7  THREADS=   (default: all cores)
#   DTYPES="f32 bf16"
#   OUT=            where results.jsonl and the single runs stay (default: nowhere)
#   RATIO_MIN=1     exit with 1 if a speed ratio is below this; 0: print only
set -euo pipefail
source "$(dirname "$0")/common.sh"
choose "small large" "$@"
pairs=${PAIRS:-7}
export RAYON_NUM_THREADS=${THREADS:-$(nproc)}
[[ -n ${CANDLE_MODELS:-} ]] || { build -p hoist-candle-models; CANDLE_MODELS=$target/hoist-candle-models; }

# in_turn NAME MODEL DTYPE PREFILL DECODE: alternating pairs, then the two parts by themselves.
in_turn() {
  local name=$1 model=$2 dtype=$3 prefill=$4 decode=$5 i engine
  local runs=("--dtype" "$dtype" --prefill "$prefill" --decode "$decode")
  for engine in hoist candle; do
    : > "$out/$name.$engine.jsonl"
  done
  for ((i = 0; i < pairs; i++)); do
    for engine in $( ((i % 2)) && echo candle hoist || echo hoist candle); do
      "$CANDLE_MODELS" "$engine" "$model" "${runs[@]}" >> "$out/$name.$engine.jsonl" ||
        die 1 "failed: $engine $name"
    done
  done
  for part in prefill decode; do
    for engine in hoist candle; do
      grep "\"part\":\"$part\"" "$out/$name.$engine.jsonl" > "$out/$name-$part.$engine.jsonl"
    done
    $python3 "$here/stats.py" "$name-$part" "$out/$name-$part.hoist.jsonl" "$out/$name-$part.candle.jsonl" \
      --labels hoist,candle-transformers --field seconds --out "$out/results.jsonl" --ratio-min "${RATIO_MIN:-1}" || failed=1
    $python3 - "$dtype" "$out/$name-$part.hoist.jsonl" "$out/$name-$part.candle.jsonl" <<'P' || failed=1
import json, sys
dtype, *paths = sys.argv[1:]
said = [{(run["top"], round(run["norm"], 2)) for run in map(json.loads, open(path))} for path in paths]
tops = [{top for top, _ in side} for side in said]
if any(len(side) != 1 for side in tops) or (dtype == "f32" and tops[0] != tops[1]):
    print(f"  FAILED: the two do not say the same: {said}")
    sys.exit(1)
P
  done
}

echo "$(nproc) cores, $RAYON_NUM_THREADS threads; load $(cut -d' ' -f1-3 /proc/loadavg)"
for section in $sections; do
  case $section in
    small)
      model=$root/testdata/rustdoc-llama-6m
      steps=(256 128)
      ;;
    large)
      model=${MODEL:-}
      if [[ -z $model ]]; then
        needs_hoist
        model=$work/model
        "$HOIST" synth "$model" --preset llama-1b > /dev/null
      fi
      steps=(256 16)
      ;;
  esac
  for dtype in ${DTYPES:-f32 bf16}; do
    in_turn "$section-$dtype" "$model" "$dtype" "${steps[@]}"
  done
done
finish
