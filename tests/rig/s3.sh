#!/usr/bin/env bash
# Reads models straight from an S3 server (moto, in a virtual environment) and compares with what the same files give from
# disk. Needs python3 with pip; the first run fetches some 20 MB of packages, later ones take seconds. Part of `.ci/run`.
#
#   tests/rig/s3.sh [path to hoist]
#
# With S3_ENDPOINT set (and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), that server is used in place of moto: it must let
# buckets be made, and refuse what is not signed, which moto does not.
set -euo pipefail

MOTO=5.2.5
BOTO3=1.44.5
# What moto[server] would bring for services that are not asked for is many times this.
FLASK=3.1.3
FLASK_CORS=6.0.5

here=$(cd "$(dirname "$0")/../.." && pwd)
hoist=${1:-$here/target/debug/hoist}
model=$here/testdata/rustdoc-llama-6m
[ -x "$hoist" ] || { echo "no hoist at $hoist: cargo build first" >&2; exit 2; }

work=$(mktemp -d)
server=
finish() {
    # What went wrong on the server's side, if anything did.
    [ "$?" = 0 ] || grep -s -A 30 Traceback "$work/server.log" | tail -40 >&2 || true
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

venv=${HOIST_RIG_VENV:-${HOIST_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hoist-rig}/moto-$MOTO}
if [ ! -x "$venv/bin/moto_server" ]; then
    python3 -m venv "$venv" || { echo "s3.sh: python3 with its module venv is needed" >&2; exit 2; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
        "moto[s3]==$MOTO" "boto3==$BOTO3" "flask==$FLASK" "flask-cors==$FLASK_CORS"
fi

export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-test} AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-test}
export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
unset AWS_PROFILE AWS_SESSION_TOKEN HTTP_PROXY HTTPS_PROXY http_proxy https_proxy || true
if [ -n "${S3_ENDPOINT:-}" ]; then
    export AWS_ENDPOINT_URL=$S3_ENDPOINT
else
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$venv/bin/moto_server" -H 127.0.0.1 -p "$port" > "$work/server.log" 2>&1 &
    server=$!
    export AWS_ENDPOINT_URL=http://127.0.0.1:$port
    for _ in $(seq 100); do
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
        sleep 0.2
    done
fi

# A GGUF of the same model, in a folder beside it, and a bucket for everybody.
"$hoist" -q convert "$model" -o "$work/q.gguf" --dtype q8_0
MODEL=$model GGUF=$work/q.gguf "$venv/bin/python" - <<'PY'
import os, boto3
s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
s3.create_bucket(Bucket="models")
top = os.environ["MODEL"]
for folder, _, names in os.walk(top):
    for name in names:
        path = os.path.join(folder, name)
        key = os.path.relpath(path, top).replace(os.sep, "/")
        s3.upload_file(path, "models", "some folder/rustdoc-llama-6m/" + key)
s3.upload_file(os.environ["GGUF"], "models", "gguf/tiny-Q8_0.gguf", ExtraArgs={"ACL": "public-read"})
with open(os.path.join(top, sorted(n for n in os.listdir(top) if n.endswith(".safetensors"))[0]), "rb") as whole:
    s3.put_object(Bucket="models", Key="broken/model.safetensors", Body=whole.read(100_000))
PY

failures=0
# same WHAT FILE FILE
same() {
    if diff -r "$2" "$3" > "$work/difference"; then
        echo "ok      $1"
    else
        echo "DIFFERS $1"
        head -20 "$work/difference"
        failures=$((failures + 1))
    fi
}
# refuses WHAT CODE WORDS COMMAND…
refuses() {
    local what=$1 code=$2 words=$3 got=0
    shift 3
    "$@" > "$work/out" 2>&1 || got=$?
    if [ "$got" = "$code" ] && grep -q -- "$words" "$work/out"; then
        echo "ok      $what"
    else
        echo "DIFFERS $what: exit $got, $code with \`$words\` expected"
        cat "$work/out"
        failures=$((failures + 1))
    fi
}
far="s3://models/some folder/rustdoc-llama-6m"

"$hoist" inspect "$model" --tensors --hash --json > "$work/near.json"
"$hoist" inspect "$far" --tensors --hash --json > "$work/far.json"
"$venv/bin/python" - "$work/near.json" "$work/far.json" <<'PY'
import json, sys
for path in sys.argv[1:]:
    facts = json.load(open(path))
    # Where it was read from, and how long that took.
    for key in ["name", "path", "model", "seconds", "hash_seconds", "bytes_per_second"]:
        facts.pop(key, None)
    json.dump(facts, open(path, "w"), indent=1, sort_keys=True)
PY
same "inspect, hashes of all tensors" "$work/near.json" "$work/far.json"

for dtype in auto f32; do
    "$hoist" -q convert "$model" -o "$work/near-$dtype" --dtype $dtype --to safetensors
    "$hoist" -q convert "$far" -o "$work/far-$dtype" --dtype $dtype --to safetensors
    rm -f "$work"/{near,far}-$dtype/.hoist.json
    same "convert to a folder, $dtype" "$work/near-$dtype" "$work/far-$dtype"
done
"$hoist" -q convert "$model" -o "$work/near.gguf"
"$hoist" -q convert "$far/" -o "$work/far.gguf"
same "convert to GGUF, rows rearranged" "$work/near.gguf" "$work/far.gguf"
"$hoist" -q convert "$work/q.gguf" -o "$work/near-q.gguf" --dtype q4_0
"$hoist" -q convert "s3://models/gguf:Q8_0" -o "$work/far-q.gguf" --dtype q4_0
same "one quantisation of a folder" "$work/near-q.gguf" "$work/far-q.gguf"
"$hoist" -q quantize "$model" -o "$work/near-4" --scheme gptq
"$hoist" -q quantize "$far" -o "$work/far-4" --scheme gptq
rm -f "$work"/{near,far}-4/.hoist.json
same "quantize" "$work/near-4" "$work/far-4"
"$hoist" -q fetch "$far" --local-dir "$work/fetched" > /dev/null
rm -r "$work/fetched/.cache"
same "fetch to a folder" "$model" "$work/fetched"
"$hoist" -q diff "$model" "$far" > "$work/diff.txt" || { cat "$work/diff.txt"; failures=$((failures + 1)); }
"$hoist" -q load "$far" --device cpu --check
"$hoist" -q load "s3://models/gguf/tiny-Q8_0.gguf" --device cpu --check
echo "ok      diff, load"

refuses "a file that is not there" 3 "no such object" "$hoist" inspect "s3://models/none.safetensors"
refuses "a folder that is not there" 3 "begins so" "$hoist" inspect "s3://models/none"
refuses "a bucket that is not there" 3 "no such bucket" "$hoist" inspect "s3://none/x"
refuses "nobody listens" 5 "cannot be reached" env AWS_ENDPOINT_URL=http://127.0.0.1:1 "$hoist" inspect "$far"
refuses "no credentials" 4 "AWS_ACCESS_KEY_ID" env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY \
    AWS_METADATA_ENDPOINT=http://127.0.0.1:1 "$hoist" inspect "$far"
refuses "a truncated file" 1 "model.safetensors" "$hoist" inspect "s3://models/broken/model.safetensors"
anonymous() { env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY AWS_SKIP_SIGNATURE=true "$@"; }
refuses "what is not public" 4 "answered 403" anonymous "$hoist" inspect "$far"
if [ -n "${S3_ENDPOINT:-}" ]; then
    refuses "a wrong secret" 4 "SignatureDoesNotMatch" env AWS_SECRET_ACCESS_KEY=wrong "$hoist" inspect "$far"
else
    anonymous "$hoist" -q inspect "s3://models/gguf/tiny-Q8_0.gguf" > /dev/null
    echo "ok      what is public, without a signature"
fi

[ "$failures" = 0 ] || { echo "$failures differ" >&2; exit 1; }
