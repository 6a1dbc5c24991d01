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
source "$(dirname "$0")/common.sh"
choose "copy mapped process python device memory" "$@"
pairs=${PAIRS:-9}
threads=${THREADS:-}
least=${RATIO_MIN:-0}
needs_hoist
needs_plain_read

if [[ -z ${MODEL:-} ]]; then
  MODEL=$work/model
  "$HOIST" synth "$MODEL" --size "$size" --shards 4
fi
files=("$MODEL"/*.safetensors)
hot "${files[@]}"
echo "model: $(du -chL "${files[@]}" | tail -1 | cut -f1) in ${#files[@]} files, in the page cache; $(machine)"

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
  hoist_device | grep -q EMULATED || die 10 "another driver answered than the emulated one"
}

# peak NAME BYTES COMMAND…: the whole process's, at most so many.
peak() {
  local name=$1 limit=$2
  shift 2
  "$PLAIN_READ" --exec "$work/report" "$@" > "$work/said"
  at_most "$name" "$limit" "$work/report" "$work/said"
}

for section in $sections; do
  case $section in
    copy) compare copy "$least" hoist_copy plain_copy ;;
    mapped) compare mapped "$least" hoist_mapped plain_populate --field seconds ;;
    process) compare process "$least" process_hoist process_cat --field seconds ;;
    python)
      if [[ -z ${HOIST_PYTHON:-} ]]; then
        without python "HOIST_PYTHON names no Python with torch and safetensors"
        continue
      fi
      compare python-safetensors "$least" hoist_copy python_safetensors
      "$HOIST_PYTHON" "$here/rivals/to_torch.py" "$work/torch" "${files[@]}"
      compare python-torch "$least" hoist_copy python_torch
      rm -rf "$work/torch"
      ;;
    device)
      emulated_driver
      compare device "$least" hoist_device plain_copy
      compare device-reused "$least" hoist_device plain_device
      ;;
    memory)
      emulated_driver
      payload=$("$PLAIN_READ" --h2d-free "${files[@]}" | $python3 -c 'import json, sys; print(json.load(sys.stdin)["bytes"])')
      peak memory-cpu-copy $((payload + (100 << 20))) "$HOIST" load "$MODEL" --device cpu --copy --json
      peak memory-cpu-mapped $((payload + (100 << 20))) "$HOIST" load "$MODEL" --device cpu --json
      peak memory-device $((200 << 20)) env "${emulated[@]}" \
        "$HOIST" load "$MODEL" --device cuda:0 --json
      ;;
  esac
done
finish
