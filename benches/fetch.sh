#!/usr/bin/env bash
# Fetching over loopback, hoist against `hf download` by its HTTP path and against aria2c, in one run on one machine.
#
# usage: benches/fetch.sh [SIZE] [SECTION…]              sections: one medium small memory (default: all)
#
#   one      one file of SIZE (1GB), which the hub redirects to its CDN
#   medium   200 files of 1 MB, redirected each
#   small    200 files of 10 kB, served by the hub itself
#   memory   hoist's peak in each of these: at most 200 MiB
#
# Each is at least as fast as both rivals. The server is nginx, one process on one core: what it serves, it serves from the page
# cache by sendfile, and the hub's part is static too (tests/rig/static_hub.py), so the server costs all the same and little.
# `hf download` has an empty cache each time, as hoist has; aria2c gets the addresses that a person has, those of the hub:
# `-x16 -s16 --checksum=sha-256=…` for one file, `-i LIST -j16` and then `sha256sum -c` for many. So hoist and aria2c compare
# hashes, and `hf download` compares none. Each side ends with `sync` of the files that it wrote, which is timed. Runs alternate
# (A B, B A, …); the ratio is of medians, above 1 where hoist is faster; CPU seconds stand beside wall seconds.
#
# environment:
#   HOIST, PLAIN_READ   built binaries (default: built here with cargo, in release)
#   HF                  the command `hf` of huggingface_hub (default: that of PATH); without it its rows are left out, aloud
#   PLACES              folders to fetch into (default: "${TMPDIR:-/tmp} /dev/shm"); each needs SIZE, the first twice
#   SERVER_CORE         the core that nginx is bound to (default: the last)
#   PAIRS=3  OUT=  LIMITS=1   as in convert.sh; half as many pairs, rounded up, with `hf download`, which takes longest
# Needs nginx, aria2c, taskset and curl.
set -euo pipefail
source "$(dirname "$0")/common.sh"
choose "one medium small memory" "$@"
pairs=${PAIRS:-3}
for tool in nginx aria2c taskset curl; do command -v $tool > /dev/null || die 3 "$tool is needed"; done
place=
stop() {
  [[ ! -f $work/hub/nginx.pid ]] || kill "$(cat "$work/hub/nginx.pid")" 2> /dev/null || true
  rm -rf "$work" ${place:+"$place"}
}
trap stop EXIT
needs_hoist
needs_plain_read
HF=${HF:-$(command -v hf || true)}
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_HUB_OFFLINE HF_HUB_CACHE || true
export HF_HOME=$work/home HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_PROGRESS_BARS=1 DO_NOT_TRACK=1

# What is served: bytes that nothing compresses.
bytes_of() { $python3 -c 'import re, sys; n, unit = re.fullmatch(r"([\d.]+)([kMG]?)B?", sys.argv[1]).groups(); print(int(float(n) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[unit]))' "$1"; }
random() { head -c "$1" /dev/urandom > "$2"; }
mkdir -p "$work"/served/{one,medium,small} "$work/hub"
random "$(bytes_of "$size")" "$work/served/one/model.safetensors"
for i in $(seq -w 200); do
  random 1000000 "$work/served/medium/part-$i.dat"
  random 10000 "$work/served/small/part-$i.dat"
done

read -r front cdn < <($python3 -c 'import socket
a, b = socket.socket(), socket.socket()
for s in a, b: s.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
export HF_ENDPOINT=http://127.0.0.1:$front
$python3 "$root/tests/rig/static_hub.py" "$work/hub" "$front" "$cdn" \
  "bench/one=$work/served/one" "bench/medium=$work/served/medium" "bench/small=$work/served/small" > "$work/commits"
taskset -c "${SERVER_CORE:-$(($(nproc) - 1))}" nginx -c "$work/hub/nginx.conf" -e "$work/hub/nginx.log"
for _ in $(seq 100); do
  curl --silent --fail --output /dev/null "$HF_ENDPOINT/api/models/bench/one/revision/main" && break
  sleep 0.1
done

# aria2c's list of what to fetch, and what sha256sum expects.
while read -r repo commit; do
  repo=${repo#bench/}
  (cd "$work/served/$repo" && sha256sum -- *) > "$work/$repo.sha256"
  while read -r _ name; do
    printf '%s/bench/%s/resolve/%s/%s\n  out=%s\n' "$HF_ENDPOINT" "$repo" "$commit" "$name" "$name"
  done < "$work/$repo.sha256" > "$work/$repo.list"
done < "$work/commits"

# As `timed` of common.sh, but what is synced is files with something in them: the cache has an empty lock file for each blob, which
# nobody brings to the disk.
timed() {
  rm -rf "$to"
  mkdir -p "$to"
  # shellcheck disable=SC2016
  "$PLAIN_READ" --exec "$work/report" bash -c 'set -e; to=$1; shift; "$@" > /dev/null; find "$to" -type f -size +0 -exec sync {} +' - "$to" "$@" > "$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; die 1 "failed: $*"; }
  cat "$work/report"
}
hoist() { timed "$HOIST" fetch "bench/$repo" --cache-dir "$to" --all; }
hf() { timed env HF_HUB_CACHE="$to" "$HF" download "bench/$repo"; }
aria2c() {
  local hash
  if [[ $repo == one ]]; then
    hash=$(cut -d' ' -f1 "$work/one.sha256")
    timed command aria2c --quiet --no-conf --file-allocation=none -x16 -s16 --min-split-size=1M --checksum="sha-256=$hash" \
      --dir "$to" --out model.safetensors "$(head -1 "$work/one.list")"
  else
    # shellcheck disable=SC2016
    timed bash -c 'set -e; aria2c --quiet --no-conf --file-allocation=none -j16 --dir "$1" -i "$2"; cd "$1"; sha256sum --quiet -c "$3"' \
      - "$to" "$work/$repo.list" "$work/$repo.sha256"
  fi
}
# Each contender delivers what was asked for: once, before it is timed.
delivers() {
  local at file
  "$1" > /dev/null
  at=$(dirname "$(find "$to" \( -name 'part-001.dat' -o -name model.safetensors \) | head -1)")
  for file in "$work/served/$repo"/*; do
    cmp --silent "$file" "$at/$(basename "$file")" || die 1 "$1 fetched something else of $repo"
  done
}

[[ -n $HF ]] || without "rows of hf" "no command hf of huggingface_hub"
for where in ${PLACES:-${TMPDIR:-/tmp} /dev/shm}; do
  place=$(mktemp -d "$where/hoist-bench.XXXXXX")
  to=$place/to
  echo "$where ($(stat -f -c %T "$where")); $(machine)"
  for repo in one medium small; do
    has $repo || continue
    # It is part of what is compared that nginx reads from memory.
    cat "$work/served/$repo"/* > /dev/null
    label=$repo-$(basename "$where")
    delivers hoist
    delivers aria2c
    compare "fetch-$label.aria2c" 1 hoist aria2c --field seconds
    if [[ -n $HF ]]; then
      delivers hf
      saved=$pairs pairs=$(((pairs + 1) / 2))
      compare "fetch-$label.hf" 1 hoist hf --field seconds
      pairs=$saved
    fi
    if has memory; then
      hoist > "$work/line"
      at_most "memory-$label" $((200 << 20)) "$work/line"
    fi
  done
  rm -rf "$place"
  place=
done
finish
