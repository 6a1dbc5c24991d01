#!/usr/bin/env bash
# Quantising from a hot page cache, hoist against copying, against the packages that are used today, and against llama-quantize,
# in one run on one machine.
#
# usage: benches/quantize.sh [SIZE] [SECTION…]           sections: copy methods ggml memory (default: all)
#
#   copy      `int4` by rtn, against `cat` of the source, `cp` of as many bytes as it writes, and `sync`: at most 1.25 times
#             as long. `search` and `fp8` beside it, without a limit
#   methods   `search` in CPU seconds of one thread, the choice of scales, zero points and codes on both sides, same matrices:
#             against hqq's optimiser (at least 100 times as fast) and llm-compressor's MSE observer (80 times). Beside it,
#             without a limit, the whole of `hoist quantize` (start, reading, packing, writing, measuring) against its own
#             choice of codes
#   ggml      q4_0 (at least 3 times as fast), q4_k_m (8 times), and others without a limit, straight from safetensors,
#             against llama-quantize with as many threads from a ready f16 GGUF
#   memory    peak of the process for a model several times larger than the limit of 600 MiB
#
# Each side ends with `sync` of the files that it wrote, which is timed; what it wrote is removed before the next run. Runs
# alternate (A B, B A, …). Ratios are of medians, above 1 where hoist is faster; CPU seconds stand beside wall seconds.
#
# environment:
#   HOIST, PLAIN_READ, CHOOSE_CODES   built binaries (default: built here with cargo, in release)
#   INT4_PYTHON         a Python with hqq, and one with llmcompressor and compressed-tensors (PYTHONPATH may add to it);
#                       without it the section `methods` is left out, aloud
#   LLAMA_QUANTIZE      llama-quantize; without it the section `ggml` is left out, aloud
#   TYPES="q4_0 q4_k_m q5_k_m q6_k q3_k_m iq4_xs"   types of the section `ggml`
#   METHOD_SIZE=100MB   the model of `methods`;   MEMORY_SIZE=4GB   that of `memory`
#   PLACE=              a folder to work in (default: "${TMPDIR:-/tmp}"); needs three times SIZE
#   PAIRS=7  OUT=  LIMITS=1   as in convert.sh
set -euo pipefail
source "$(dirname "$0")/common.sh"
choose "copy methods ggml memory" "$@"
pairs=${PAIRS:-7}
threads=$(nproc)
to=$work/to model=$work/model
needs_hoist
needs_plain_read

hoist_int4() { timed "$HOIST" quantize "$model" -o "$to/model" --scheme "${scheme:-int4}" --method "${method:-rtn}"; }
hoist_rtn() { method=rtn hoist_int4; }
hoist_search() { method=search hoist_int4; }
hoist_fp8() { scheme=fp8 method=rtn hoist_int4; }
# shellcheck disable=SC2016
cat_cp() { timed bash -c 'cat "$1"/*.safetensors > /dev/null; cp "$2"/* "$3"' - "$model" "$written" "$to"; }
hoist_gguf() { timed "$HOIST" quantize "$model" -o "$to/model.gguf" --scheme "$type" --threads "$threads"; }
llama_quantize() { timed "$LLAMA_QUANTIZE" "$work/f16.gguf" "$to/model.gguf" "$type" "$threads"; }
# One thread each, so that CPU seconds hold no waiting for each other.
hoist_codes() { "$CHOOSE_CODES" "$work/small" $arguments; }
hoist_whole() { timed "$HOIST" quantize "$work/small" -o "$to/model" $whole --threads 1; }
package() { "$INT4_PYTHON" "$here/rivals/quantize.py" "$package" "$work"/small/*.safetensors 2> "$work/log" | tail -1; }

if has copy || has ggml; then
  make_model "$model" "$size"
  hot "$model"/*.safetensors
  bytes=$(cat "$model"/*.safetensors | wc -c)
  echo "$work ($(stat -f -c %T "$work")): $((bytes / 1000000)) MB in the page cache; $(machine)"
fi
if has copy; then
  written=$work/written
  "$HOIST" quantize "$model" -o "$written" --method rtn > /dev/null
  compare int4-rtn 0.8 hoist_rtn cat_cp --field seconds
  compare int4-search 0 hoist_search cat_cp --field seconds
  "$HOIST" quantize "$model" -o "$written" --scheme fp8 --force > /dev/null
  compare fp8 0 hoist_fp8 cat_cp --field seconds
  rm -rf "$written"
fi
if has methods; then
  if [[ -z ${INT4_PYTHON:-} ]]; then
    without methods "INT4_PYTHON names no Python with hqq and llmcompressor"
  else
    make_model "$work/small" "${METHOD_SIZE:-100MB}" 1
    hot "$work/small"/*.safetensors
    saved=$pairs pairs=3
    needs_choose_codes
    for line in "hqq 100 asymmetric int4" "llmcompressor-mse 80 asymmetric int4" \
      "llmcompressor-mse-symmetric 80 symmetric int4"; do
      read -r package least kind scheme <<< "$line"
      arguments="$scheme --$kind"
      compare "search-$kind.$package" "$least" hoist_codes package --field cpu_seconds
      arguments="--scheme $scheme --$kind"
    done
    for kind in asymmetric symmetric; do
      arguments="int4 --$kind"
      whole="--scheme int4 --$kind"
      compare "search-$kind.whole" 0 hoist_whole hoist_codes --field cpu_seconds
    done
    pairs=$saved
    rm -rf "$work/small"
  fi
fi
if has ggml; then
  if [[ -z ${LLAMA_QUANTIZE:-} ]]; then
    without ggml "LLAMA_QUANTIZE names no llama-quantize"
  else
    "$HOIST" convert "$model" -o "$work/f16.gguf" --dtype f16 > /dev/null
    for type in ${TYPES:-q4_0 q4_k_m q5_k_m q6_k q3_k_m iq4_xs}; do
      case $type in q4_0) least=3 ;; q4_k_m) least=8 ;; *) least=0 ;; esac
      compare "$type" "$least" hoist_gguf llama_quantize --field seconds
    done
    rm -f "$work/f16.gguf"
  fi
fi
rm -rf "$model"
if has memory; then
  make_model "$model" "${MEMORY_SIZE:-4GB}"
  for line in "model --scheme int4" "model --scheme gptq" "model.gguf --scheme q4_k_m"; do
    read -r name arguments <<< "$line"
    # shellcheck disable=SC2086
    timed "$HOIST" quantize "$model" -o "$to/$name" $arguments > "$work/line"
    at_most "memory $line" $((600 << 20)) "$work/line"
  done
fi
finish
