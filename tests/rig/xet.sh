#!/usr/bin/env bash
# Fetches by Xet from the hub's own store (local_cas_server, which its client's crate has for tests), filled by the hub's own
# uploader. nginx plays the hub around it: a revision, a listing, and a signed URL that answers 400, as for the largest files.
# Exit code 0 only when every byte is right, memory stays under a limit that the kernel enforces, nothing is posted to anybody,
# and a store that dies ends in exit code 5, in time, and is taken up again. Needs python3 with pip, nginx, curl, prlimit;
# cargo for the first run, which takes some minutes: for a release, not for each change.
#
#   tests/rig/xet.sh [path to hoist]
#
# HOIST_RIG_TOOLS, HOIST_RIG_VENV: where the server and the uploader are, or shall be. HOIST_RIG_MIB: the file's size.
set -euo pipefail

XET_CLIENT=1.8.0
HF_XET=1.8.0

here=$(cd "$(dirname "$0")/../.." && pwd)
hoist=${1:-$here/target/debug/hoist}
mib=${HOIST_RIG_MIB:-256}
[ -x "$hoist" ] || { echo "no hoist at $hoist: cargo build first" >&2; exit 2; }
for tool in nginx curl prlimit; do
    command -v $tool > /dev/null || { echo "xet.sh: $tool is needed" >&2; exit 2; }
done

tools=${HOIST_RIG_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/hoist-rig/xet-$XET_CLIENT}
[ -x "$tools/bin/local_cas_server" ] ||
    cargo install --locked --root "$tools" "xet-client@$XET_CLIENT" --features simulation --bin local_cas_server
venv=${HOIST_RIG_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/hoist-rig/hf-xet-$HF_XET}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "hf_xet==$HF_XET"
fi

work=$(mktemp -d)
cas_pid=
fail() { echo "xet.sh: $1" >&2; exit 1; }
finish() {
    code=$?
    [ $code = 0 ] || tail -n 20 "$work"/*.log >&2 || true
    [ ! -f "$work/nginx.pid" ] || kill "$(cat "$work/nginx.pid")" 2> /dev/null || true
    [ -z "$cas_pid" ] || kill "$cas_pid" 2> /dev/null || true
    rm -rf "$work"
}
trap finish EXIT
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy HF_TOKEN HF_HOME HF_HUB_OFFLINE HF_HUB_DISABLE_XET || true
export HOME=$work/home
mkdir -p "$HOME" "$work/tmp"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
cas=$(free_port) store=$(free_port) front=$(free_port) cdn=$(free_port)
start_cas() {
    "$tools/bin/local_cas_server" --host 127.0.0.1 --port "$cas" -d "$work/cas" > "$work/cas.log" 2>&1 &
    cas_pid=$!
    for _ in $(seq 100); do
        curl --silent --output /dev/null "http://127.0.0.1:$cas/health" && return
        sleep 0.1
    done
    fail "the store does not start"
}
start_cas

# What weights are like: floats that pack well in groups, noise, zeros, and a part that comes twice.
python3 - "$work/model.safetensors" "$mib" << 'PYTHON'
import json, random, struct, sys
draw = random.Random(7)
count = int(sys.argv[2])
total = sum(((1 << 20) + (n % 4 == 3)) * (1 + (n % 16 == 5)) for n in range(count))
head = json.dumps({"w": {"dtype": "U8", "shape": [total], "data_offsets": [0, total]}}).encode()
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<Q", len(head)) + head)
    for n in range(count):
        match n % 4:
            case 0: part = draw.randbytes(1 << 20)
            case 1: part = struct.pack("<4096f", *(draw.gauss(0, 0.02) for _ in range(4096))) * 64
            case 2: part = b"".join(draw.randbytes(3) + b"\x3f" for _ in range(1 << 18))
            case 3: part = bytes(1 << 19) + draw.randbytes((1 << 19) + 1)
        file.write(part)
        if n % 16 == 5:
            file.write(part)
PYTHON
size=$(stat -c %s "$work/model.safetensors")
sha=$(sha256sum "$work/model.safetensors" | cut -d' ' -f1)
xet=$(HOME=$work/uploader HF_HUB_DISABLE_TELEMETRY=1 "$venv/bin/python" - "http://127.0.0.1:$cas" "$work/model.safetensors" << 'PYTHON'
import sys, hf_xet
with hf_xet.XetSession().new_upload_commit(endpoint=sys.argv[1], token="t", token_expiry_unix_secs=9999999999) as commit:
    handle = commit.start_upload_file(sys.argv[2])
print(handle.result().xet_info.hash)
PYTHON
)

commit=0123456789abcdef0123456789abcdef01234567
cat > "$work/nginx.conf" << NGINX
worker_processes 1; daemon on; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 512; }
http {
  log_format asked '\$request_method \$server_port \$uri \$status \$http_authorization';
  access_log $work/access.txt asked;
  client_body_temp_path $work/tmp/b; proxy_temp_path $work/tmp/p; fastcgi_temp_path $work/tmp/f; uwsgi_temp_path $work/tmp/u; scgi_temp_path $work/tmp/s;
  server { listen 127.0.0.1:$front; default_type application/json;
    location = /api/models/acme/large/revision/main { return 200 '{"id":"acme/large","sha":"$commit","siblings":[]}'; }
    location = /api/models/acme/large/tree/$commit {
      return 200 '[{"type":"file","path":"model.safetensors","size":$size,"oid":"$commit","lfs":{"oid":"$sha","size":$size,"pointerSize":134},"xetHash":"$xet"}]'; }
    location = /api/models/acme/large/xet-read-token/$commit {
      return 200 '{"accessToken":"store-token","exp":9999999999,"casUrl":"http://127.0.0.1:$store"}'; }
    location = /acme/large/resolve/$commit/model.safetensors {
      add_header X-Repo-Commit $commit always; add_header X-Linked-Size $size always; add_header X-Linked-Etag '"$sha"' always;
      return 302 http://127.0.0.1:$cdn/$sha?signature=s; }
    location / { return 404; }
  }
  server { listen 127.0.0.1:$cdn; location / { return 400; } }
  server { listen 127.0.0.1:$store;
    location / { proxy_pass http://127.0.0.1:$cas; proxy_set_header Host \$http_host; proxy_http_version 1.1; proxy_buffering off; }
  }
}
NGINX
chmod -R a+rX "$work"
nginx -c "$work/nginx.conf" -e "$work/nginx.log"
export HF_ENDPOINT=http://127.0.0.1:$front HF_TOKEN=hub-token

# Memory of its own that the kernel grants: heap, stacks, everything private and writable.
LIMIT_MIB=160
cat > "$work/limited.py" << 'PYTHON'
import resource, subprocess, sys, time
began = time.monotonic()
limit = int(sys.argv[1]) << 20
code = subprocess.call(sys.argv[2:], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
print(f"    exit {code}, {time.monotonic() - began:.1f} s, peak of resident memory {peak} MiB", file=sys.stderr)
sys.exit(code)
PYTHON
limited() { python3 "$work/limited.py" $LIMIT_MIB "$@"; }

path=$(HF_HUB_CACHE=$work/cache limited "$hoist" -q fetch acme/large)
[ "$(sha256sum "$path/model.safetensors" | cut -d' ' -f1)" = "$sha" ] || fail "the file differs"
grep -q "GET $store /v[12]/reconstructions" "$work/access.txt" || fail "the store was not asked"
echo "ok  $((size >> 20)) MiB by Xet, within $LIMIT_MIB MiB of memory"
! grep -q "^POST" "$work/access.txt" || fail "something was posted: $(grep '^POST' "$work/access.txt" | head -1)"
! grep -v " $front " "$work/access.txt" | grep -q hub-token || fail "the hub's token left the hub"
! grep "fetch_term" "$work/access.txt" | grep -q token || fail "a token went to a signed URL"
[ -z "$(find "$HOME" -type f)" ] || fail "something was written to the home: $(find "$HOME" -type f | head -1)"
echo "ok  nothing posted, tokens where they belong, nothing written elsewhere"

code=0
HF_HUB_DISABLE_XET=1 HF_HUB_CACHE=$work/without "$hoist" -q fetch acme/large > /dev/null 2> "$work/without.txt" || code=$?
{ [ $code = 9 ] && grep -q HF_HUB_DISABLE_XET "$work/without.txt"; } || fail "without Xet: exit $code: $(cat "$work/without.txt")"
echo "ok  HF_HUB_DISABLE_XET=1 ends in exit 9"

# The store dies in the middle; the next run goes on from there.
HF_HUB_CACHE=$work/dying "$hoist" -q fetch acme/large --limit-rate 40MB > /dev/null 2> "$work/dying.txt" &
fetch=$!
sleep 2
kill "$cas_pid"
cas_pid=
began=$(date +%s) code=0
wait $fetch || code=$?
took=$(($(date +%s) - began))
{ [ $code = 5 ] && [ $took -le 60 ]; } || fail "a dead store: exit $code after $took s: $(cat "$work/dying.txt")"
echo "ok  a dead store ends in exit 5 after $took s: $(head -1 "$work/dying.txt")"
start_cas
: > "$work/access.txt"
path=$(HF_HUB_CACHE=$work/dying limited "$hoist" fetch acme/large --progress none 2> "$work/again.txt")
[ "$(sha256sum "$path/model.safetensors" | cut -d' ' -f1)" = "$sha" ] || fail "the file differs after the store died"
echo "ok  the next run goes on: $(grep -i -m1 resumed "$work/again.txt" || tail -2 "$work/again.txt")"

# By ranges, without a copy.
HF_HUB_CACHE=$work/nothing "$hoist" -q inspect hf://acme/large > "$work/inspect.txt"
[ ! -e "$work/nothing" ] || fail "streaming stored something"
echo "ok  hf:// reads by Xet, and stores nothing"
