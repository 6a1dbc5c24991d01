#!/usr/bin/env bash
# hoist and its rivals on a machine with an NVIDIA GPU. No compiler is needed, and no network.
#
# usage: HOIST=/path/to/hoist [WHEELS=DIR] [OUT=DIR] benches/gpu.sh [SECTION…]
#
#   limits     hoist doctor; copies from pinned and pageable memory, cost of pinning, rings of pinned slots, O_DIRECT
#   register   the page cache registered with the driver and read by the device itself
#   hot        hoist from a hot page cache: defaults, then threads and ways of reading
#   cold       hoist from the disk, the same
#   rivals     each rival at its defaults and at its best settings, hot and cold (fetch_wheels.sh gets them)
#   memory     peaks of device and host memory, hoist and rivals
#   tables     one table of everything so far: $OUT/table.md
#
# All sections by default, in this order. One call takes BUDGET_S at most; what it has not come to is done by the next,
# as finished steps are noted in $OUT/done (a model that is gone by then is made again, the same). Exit code 75: more to
# do, run it again. A step that failed is not tried again, unless RETRY=1; the table names it.
#
# environment:
#   HOIST        the binary; needed
#   PYTHON       a Python with torch for CUDA (default: python3)
#   WHEELS       directory of the rivals' wheels; without it only those that Python has already
#   OUT          where results stay (default: ./gpu-results): results.jsonl, done, log, table.md
#   WORK         room for the model, and for a second copy that two of the rivals need (default: a fixed place in TMPDIR)
#   MODEL        a directory of .safetensors files (default: made by `hoist synth $SYNTH` in WORK)
#   SYNTH        (default: --preset llama-8b --shard-size 4GB, 16 GB)
#   DEVICE=cuda:0  REPS=5  BUDGET_S=560  STEP_S=150
set -uo pipefail
export LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1 HOIST_QUIET=1 HOIST_PROGRESS=none
here=$(cd "$(dirname "$0")" && pwd)
began=$SECONDS
hoist=${HOIST:?HOIST must name the binary}
python=${PYTHON:-python3}
out=${OUT:-$PWD/gpu-results}
work=${WORK:-${TMPDIR:-/tmp}/hoist-gpu-bench}
device=${DEVICE:-cuda:0}
reps=${REPS:-5}
budget=${BUDGET_S:-560}
step_limit=${STEP_S:-150}
all="limits register hot cold rivals memory tables"
sections=${*:-$all}
for s in $sections; do
  case " $all " in *" $s "*) ;; *) echo "gpu.sh: no section $s" >&2; exit 2 ;; esac
done
mkdir -p "$out" "$work"
results=$out/results.jsonl
touch "$results" "$out/done" "$out/log"
left() { echo $((budget - (SECONDS - began))); }

out_of_time() {
  echo "gpu.sh: $budget s are over; run it again to go on" >&2
  exit 75
}

# note_failure STEP WHY
note_failure() {
  "$python" -c 'import json, sys; print(json.dumps({"failed": sys.argv[1], "why": sys.argv[2]}))' "$1" "$2" >> "$results"
}

# step NAME COMMAND…: runs it unless it is done; its JSON lines go to the results, the rest to the log.
step() {
  local name=$1 limit code
  shift
  if grep -qxF -- "$name" "$out/done"; then return; fi
  if [[ ${RETRY:-} != 1 ]] && grep -qxF -- "failed: $name" "$out/done"; then return; fi
  limit=$(left)
  ((limit >= 45)) || out_of_time
  ((limit <= step_limit)) || limit=$step_limit
  echo "== $name" | tee -a "$out/log"
  timeout -k 5 "$limit" "$@" > "$work/stdout" 2> "$work/stderr"
  code=$?
  cat "$work/stderr" >> "$out/log"
  # Cut off by the end of our own time rather than its own: the next call has more. What it said is not kept, or it
  # would be there twice.
  if ((code == 124 && limit < step_limit)); then out_of_time; fi
  grep '^{' "$work/stdout" | sed "s|^{|{\"section\": \"${name%% *}\", |" | tee -a "$results"
  if ((code == 0)); then
    echo "$name" >> "$out/done"
    return
  fi
  local why
  why="exit code $code: $(grep '^[^ ]' "$work/stderr" | tail -1 | cut -c1-300)"
  ((code != 124)) || why="took more than $limit s"
  note_failure "$name" "$why"
  echo "failed: $name" >> "$out/done"
  echo "gpu.sh: $name: $why" >&2
}

site=$work/site
site_rc=$work/site-rc
prepare_python() {
  [[ -n ${WHEELS:-} && ! -e $work/installed ]] || return 0
  local pip=("$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target) plain=() rc=() wheel
  # The next safetensors beside the one that the other rivals run with.
  for wheel in "$WHEELS"/*.whl; do
    case ${wheel##*/} in safetensors-0.9*) rc+=("$wheel") ;; *) plain+=("$wheel") ;; esac
  done
  { ((${#plain[@]} == 0)) || "${pip[@]}" "$site" "${plain[@]}"; } >> "$out/log" 2>&1 &&
    { ((${#rc[@]} == 0)) || "${pip[@]}" "$site_rc" "${rc[@]}"; } >> "$out/log" 2>&1 &&
    touch "$work/installed" || { echo "gpu.sh: the wheels cannot be installed, see $out/log" >&2; exit 1; }
}

prepare_model() {
  if [[ -z ${MODEL:-} ]]; then
    MODEL=$work/model
    # shellcheck disable=SC2086 # several words are meant
    [[ -e $MODEL ]] || "$hoist" synth "$MODEL" ${SYNTH:---preset llama-8b --shard-size 4GB} 2>> "$out/log" ||
      { echo "gpu.sh: no model, see $out/log" >&2; exit 1; }
  fi
  big=$(ls -S "$MODEL"/*.safetensors | head -1)
}

limits=("$python" "$here/rivals/limits.py")

# hoist_step SECTION CACHE REPS FLAGS-OF-BENCH… -- OPTIONS…
hoist_step() {
  local section=$1 cache=$2 count=$3 opts=() o
  shift 3
  for o in "$@"; do opts+=(--opt "$o"); done
  step "$section hoist $cache $*" "$python" "$here/rivals/bench.py" hoist "$MODEL" --cache "$cache" --device "$device" \
    --reps "$count" --opt "binary=$hoist" "${opts[@]}"
}

# A rival a line: loader, environment (comma-separated; RC = the next safetensors), options. Its defaults stand first;
# several read with O_DIRECT by default even where the page cache has everything, so their best hot setting stands beside.
rivals='
safetensors||
safetensors-prefetch|RC|threads=8
safetensors-prefetch|RC|threads=16 ahead=2
torch-pin||
fastsafetensors||
fastsafetensors||io=buffered
fastsafetensors||io=odirect
fastsafetensors||io=buffered api=parallel
instanttensor||
instanttensor||backend=URING_BUFFERED
instanttensor||backend=MMAP
instanttensor|INSTANTTENSOR_CACHE_BUFFER=1|backend=MMAP
runai||
runai|RUNAI_STREAMER_FS_STRATEGY=sync_buffered|
runai|RUNAI_STREAMER_FS_STRATEGY=sync_buffered|dest=device
kvikio|KVIKIO_COMPAT_MODE=ON,KVIKIO_NTHREADS=16|
flashpack||
flashpack|FLASHPACK_DIRECT_IO=0|
tensorizer||
'

# rival_step SECTION CACHE LOADER ENVIRONMENT OPTIONS FLAGS…
rival_step() {
  local section=$1 cache=$2 loader=$3 environment=$4 options=$5 path=$site variables=() opts=() o
  shift 5
  if [[ $environment == RC ]]; then
    path=$site_rc:$site
  elif [[ -n $environment ]]; then
    IFS=, read -ra variables <<< "$environment"
    opts+=(--opt "env=$environment")
  fi
  for o in $options; do opts+=(--opt "$o"); done
  step "$section $loader $cache${environment:+ $environment}${options:+ $options}" \
    env "PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}" "${variables[@]}" \
    "$python" "$here/rivals/bench.py" "$loader" "$MODEL" --cache "$cache" --device "$device" \
    --opt "pack=$work/packed" "${opts[@]}" "$@"
}

each_rival() {
  local section=$1 flags loader environment options last=
  shift
  flags=("$@")
  while IFS='|' read -r loader environment options; do
    [[ -n $loader ]] || continue
    # Two rivals need the model in a form of their own; there is room for one of these at a time.
    [[ $loader == "$last" ]] || rm -rf "$work/packed"
    last=$loader
    for cache in $caches; do
      rival_step "$section" "$cache" "$loader" "$environment" "$options" "${flags[@]}" < /dev/null
    done
  done <<< "$rivals"
  rm -rf "$work/packed"
}

if [[ $sections != tables ]]; then
  prepare_model
  prepare_python
  step machine "$python" "$here/rivals/machine.py" "$hoist"
fi
for section in $sections; do
  case $section in
    limits)
      step "limits doctor" "$python" "$here/rivals/machine.py" "$hoist" "$MODEL"
      for test in pinned pageable pincost; do step "limits $test" "${limits[@]}" "$big" --gb 4 --only "$test"; done
      for threads in 4 8 12 16; do
        step "limits ring $threads" "${limits[@]}" "$big" --gb 4 --only ring --threads "$threads" --chunks 512Ki,1Mi,2Mi,4Mi
        step "limits odirect $threads" "${limits[@]}" "$big" --gb 4 --only odirect --threads "$threads"
      done
      ;;
    register) step "register" "${limits[@]}" "$big" --gb 4 --only register --threads 1,4,8,16 ;;
    hot | cold)
      # The digest in a run of its own: checking takes time.
      step "$section hoist digest" "$python" "$here/rivals/bench.py" hoist "$MODEL" --cache "$section" --device "$device" \
        --reps 1 --check --opt "binary=$hoist" --opt check=yes
      hoist_step "$section" "$section" "$reps"
      for threads in 4 8 12 16; do hoist_step "$section" "$section" "$reps" "threads=$threads"; done
      for io in direct buffered; do hoist_step "$section" "$section" "$reps" "io=$io"; done
      ;;
    rivals)
      caches="hot cold"
      each_rival rivals --reps 3 --check
      ;;
    memory)
      step "memory hoist hot" "$python" "$here/rivals/bench.py" hoist "$MODEL" --cache hot --device "$device" --memory --opt "binary=$hoist"
      caches=hot
      each_rival memory --memory
      ;;
    tables) "$python" "$here/rivals/table.py" "$results" "$out/table.md" || exit 1 ;;
  esac
done
echo "gpu.sh: done; results in $out"
