#!/usr/bin/env bash
# As s3.sh (its needs and a Rust toolchain), against s3s-fs, which checks signatures. Built from source, some minutes: for a release, not for each change.
set -euo pipefail

S3S=0.14.1

here=$(cd "$(dirname "$0")" && pwd)
tools=${HOIST_RIG_TOOLS:-${HOIST_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hoist-rig}/s3s-fs-$S3S}
[ -x "$tools/bin/s3s-fs" ] || cargo install --locked --root "$tools" "s3s-fs@$S3S" --features binary

work=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$work/data"
"$tools/bin/s3s-fs" --host 127.0.0.1 --port "$port" --access-key key --secret-key secret "$work/data" > "$work/log" 2>&1 &
server=$!
for _ in $(seq 100); do
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
    sleep 0.1
done
S3_ENDPOINT=http://127.0.0.1:$port AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret "$here/s3.sh" "$@"
