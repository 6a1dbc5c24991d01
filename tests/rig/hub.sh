#!/usr/bin/env bash
# Fetches from a hub that nobody here wrote (olah over a git repo with git-lfs; nginx serves the large files by ranges behind a
# redirect, as the hub's CDN does) and opens the cache with Python's huggingface_hub; then the other way round; then the same
# for a plain folder. Exit code 0 only when every file is the same. Needs python3 with pip, git, git-lfs, nginx and curl.
#
#   tests/rig/hub.sh [path to hoist]
set -euo pipefail

OLAH=0.5.4
HUGGINGFACE_HUB=2.4.0

here=$(cd "$(dirname "$0")/../.." && pwd)
hoist=${1:-$here/target/debug/hoist}
model=$here/testdata/rustdoc-llama-6m
[ -x "$hoist" ] || { echo "no hoist at $hoist: cargo build first" >&2; exit 2; }
for tool in git git-lfs nginx curl; do
    command -v $tool > /dev/null || { echo "hub.sh: $tool is needed" >&2; exit 2; }
done

work=$(mktemp -d)
servers=()
finish() {
    code=$?
    [ $code = 0 ] || tail -n 20 "$work"/*.log >&2 || true
    [ ! -f "$work/nginx.pid" ] || kill "$(cat "$work/nginx.pid")" 2> /dev/null || true
    for server in "${servers[@]}"; do kill "$server" 2> /dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

venv=${HOIST_RIG_VENV:-${HOIST_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hoist-rig}/hub-$OLAH-$HUGGINGFACE_HUB}
if [ ! -x "$venv/bin/olah-cli" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "olah==$OLAH" "huggingface_hub==$HUGGINGFACE_HUB"
fi
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy HF_TOKEN HF_HOME HF_HUB_OFFLINE || true
export HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HOME=$work/home
mkdir -p "$HOME"

# The repo.
repo=$work/mirrors/models/acme/tiny
mkdir -p "$repo"
cp -r "$model"/. "$repo"
(
    cd "$repo"
    git init --quiet --initial-branch=main
    git lfs install --local > /dev/null
    git lfs track '*.safetensors' > /dev/null
    git add -A
    git -c user.name=rig -c user.email=rig@localhost commit --quiet -m tiny
)
commit=$(git -C "$repo" rev-parse HEAD)

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
olah=$(free_port) front=$(free_port) cdn=$(free_port)
cat > "$work/olah.toml" <<TOML
[basic]
host = "127.0.0.1"
port = $olah
repos-path = "$work/repos"
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:$olah"
mirror-lfs-netloc = "127.0.0.1:$olah"
mirrors-path = ["$work/mirrors"]
[accessibility]
offline = true
TOML
(cd "$work" && exec "$venv/bin/olah-cli" -c "$work/olah.toml") > "$work/olah.log" 2>&1 &
servers+=($!)

# Which file has which content, and where the content lies.
git -C "$repo" lfs ls-files --long | while read -r hash _ name; do
    size=$(stat -c %s "$repo/$name")
    cat <<NGINX
    location ~ ^/acme/tiny/resolve/[^/]+/$name\$ {
      add_header X-Repo-Commit $commit always;
      add_header X-Linked-Size $size always;
      add_header X-Linked-Etag '"$hash"' always;
      return 302 http://127.0.0.1:$cdn/${hash:0:2}/${hash:2:2}/$hash;
    }
NGINX
done > "$work/locations.conf"
mkdir -p "$work/tmp"
cat > "$work/nginx.conf" <<NGINX
worker_processes 1; daemon on; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 512; }
http {
  access_log $work/access.log;
  client_body_temp_path $work/tmp/b; proxy_temp_path $work/tmp/p; fastcgi_temp_path $work/tmp/f; uwsgi_temp_path $work/tmp/u; scgi_temp_path $work/tmp/s;
  server { listen 127.0.0.1:$front; include $work/locations.conf; location / { proxy_pass http://127.0.0.1:$olah; } }
  server { listen 127.0.0.1:$cdn; root $repo/.git/lfs/objects; }
}
NGINX
chmod -R a+rX "$work"
nginx -c "$work/nginx.conf" -e "$work/nginx.log"
export HF_ENDPOINT=http://127.0.0.1:$front
for _ in $(seq 100); do
    curl --silent --fail --output /dev/null "$HF_ENDPOINT/api/models/acme/tiny/revision/main" && break
    sleep 0.2
done

same() {
    (cd "$model" && find . -type f) | while read -r name; do
        cmp "$model/$name" "$1/$name" || { echo "hub.sh: $2: $name differs" >&2; exit 1; }
    done
    echo "ok  $2"
}

path=$(HF_HUB_CACHE=$work/ours "$hoist" -q fetch acme/tiny)
[ "$path" = "$work/ours/models--acme--tiny/snapshots/$commit" ] || { echo "hub.sh: the path is $path" >&2; exit 1; }
same "$path" "hoist into an empty cache"
python_sees() {
    HF_HUB_CACHE=$1 HF_HUB_OFFLINE=1 "$venv/bin/python" -c '
from huggingface_hub import snapshot_download
print(snapshot_download("acme/tiny", local_files_only=True))'
}
same "$(python_sees "$work/ours")" "Python opens it offline"
before=$(wc -l < "$work/access.log")
HF_HUB_CACHE=$work/ours "$hoist" -q fetch acme/tiny > /dev/null
asked=$(($(wc -l < "$work/access.log") - before))
[ "$asked" -le 2 ] || { echo "hub.sh: a second fetch asked $asked times" >&2; exit 1; }
echo "ok  a second fetch asks $asked times"

HF_HUB_CACHE=$work/theirs "$venv/bin/hf" download acme/tiny > /dev/null
same "$(HF_HUB_CACHE=$work/theirs "$hoist" -q fetch acme/tiny --offline)" "hoist opens Python's cache offline"
HF_HUB_CACHE=$work/theirs "$hoist" -q cache verify > /dev/null
echo "ok  Python's cache verified"

HF_HUB_CACHE=$work/none "$hoist" -q fetch acme/tiny --local-dir "$work/folder" > /dev/null
same "$work/folder" "hoist into a folder"
before=$(wc -c < "$work/access.log")
HF_HUB_CACHE=$work/none "$venv/bin/hf" download acme/tiny --local-dir "$work/folder" > /dev/null
tail -c +"$((before + 1))" "$work/access.log" | grep -q '"GET /../../' && { echo "hub.sh: Python fetched again" >&2; exit 1; }
echo "ok  Python finds nothing to fetch in it"
HF_HUB_CACHE=$work/none "$venv/bin/hf" download acme/tiny --local-dir "$work/other" > /dev/null
before=$(wc -c < "$work/access.log")
HF_HUB_CACHE=$work/none "$hoist" -q fetch acme/tiny --local-dir "$work/other" > /dev/null
tail -c +"$((before + 1))" "$work/access.log" | grep -q '"GET /../../' && { echo "hub.sh: hoist fetched again" >&2; exit 1; }
same "$work/other" "hoist finds nothing to fetch in Python's folder"

# Beside the cache: headers and a conversion by ranges.
HF_HUB_CACHE=$work/nothing "$hoist" -q inspect hf://acme/tiny > /dev/null
HF_HUB_CACHE=$work/nothing "$hoist" -q convert hf://acme/tiny -o "$work/far.gguf" > /dev/null
"$hoist" -q convert "$model" -o "$work/near.gguf" > /dev/null
"$hoist" -q diff "$work/near.gguf" "$work/far.gguf" > /dev/null
[ ! -e "$work/nothing" ] || { echo "hub.sh: streaming stored something" >&2; exit 1; }
echo "ok  hf:// streams, and stores nothing"
HF_HUB_CACHE=$work/wanted "$hoist" -q load acme/tiny --device cpu > /dev/null
same "$work/wanted/models--acme--tiny/snapshots/$commit" "a load fetches what the cache lacks"
