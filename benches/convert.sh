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
source "$(dirname "$0")/common.sh"
choose "copy cast gguf torch memory" "$@"
pairs=${PAIRS:-9}
place=
trap 'rm -rf "$work" ${place:+"$place"}' EXIT
needs_hoist
needs_plain_read

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

needs_python() { [[ -n ${HOIST_PYTHON:-} ]] || { without "$1" "HOIST_PYTHON names no Python with torch and safetensors"; return 1; }; }

for where in ${PLACES:-${TMPDIR:-/tmp} /dev/shm}; do
  place=$(mktemp -d "$where/hoist-bench.XXXXXX")
  label=$(basename "$where")
  model=$place/model bin=$place/bin to=$place/to
  if has copy || has cast || has gguf || has torch; then
    make_model "$model" "$size"
    hot "$model"/*.safetensors
    bytes=$(cat "$model"/*.safetensors | wc -c)
    shard_bytes=$((bytes / 3 + 1))
    echo "$where ($(stat -f -c %T "$where")): $((bytes / 1000000)) MB in 4 files, in the page cache; $(machine)"
  fi
  if { has copy || has torch; } && needs_python "rows from .bin"; then
    "$HOIST_PYTHON" "$here/rivals/to_torch.py" "$bin" "$model"/*.safetensors > /dev/null
    cp "$model/config.json" "$bin"
  fi
  for section in $sections; do
    case $section in
      copy)
        [[ ! -d $bin ]] || compare "bin-to-safetensors-$label" 0.8696 hoist_bin cp_bin --field seconds
        compare "reshard-$label" 0.8696 hoist_reshard cp_safetensors --field seconds
        compare "gguf-same-$label" 0.8696 hoist_gguf_same cp_safetensors --field seconds
        ;;
      cast) compare "cast-f16-$label" 0.7692 hoist_cast cp_safetensors --field seconds ;;
      gguf)
        needs_python gguf || continue
        [[ -n ${LLAMACPP:-} ]] || { without gguf "LLAMACPP names no folder of tests/clients/get_llamacpp.sh"; continue; }
        compare "gguf-f16-$label" 8 hoist_gguf_f16 llamacpp_f16 --field seconds
        compare "gguf-q8_0-$label" 8 hoist_gguf_q8_0 llamacpp_q8_0 --field seconds
        ;;
      torch)
        [[ -d $bin ]] || continue
        compare "torch-$label" 3 hoist_bin torch_process --field seconds
        compare "torch-calls-$label" 0 hoist_bin torch_to_safetensors --field seconds
        ;;
    esac
  done
  rm -rf "$place"
  place=
done

# Not in each place: memory is the same everywhere.
if has memory; then
  place=$(mktemp -d "${TMPDIR:-/tmp}/hoist-bench.XXXXXX")
  model=$place/model to=$place/to
  make_model "$model" "${MEMORY_SIZE:-4GB}"
  for what in "reshard --shard-size 1GB" "cast --dtype f16" "gguf --dtype q8_0"; do
    read -r name flags <<< "$what"
    target_name=$to/model
    [[ $name != gguf ]] || target_name=$to/model.gguf
    # shellcheck disable=SC2086
    timed "$HOIST" convert "$model" -o "$target_name" $flags > "$work/line"
    at_most "memory-$name" $((600 << 20)) "$work/line"
  done
fi
finish
