#!/usr/bin/env bash
# Downloads the rivals' wheels for a machine that has no network: fetch_wheels.sh DIR [--tensorizer]
# For Python 3.12 on x86-64 Linux; PYTHON_VERSION=3.13 asks for another.
set -euo pipefail
out=${1:?usage: fetch_wheels.sh DIR [--tensorizer]}
here=$(cd "$(dirname "$0")" && pwd)
lists=(-r "$here/wheels.txt")
[[ ${2:-} != --tensorizer ]] || lists+=(-r "$here/wheels_tensorizer.txt")
platforms=()
# pip knows no "this glibc or older": each tag has to be named.
for tag in manylinux_2_30 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014; do
  platforms+=(--platform "${tag}_x86_64")
done
mkdir -p "$out"
python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
  --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" --platform any -d "$out" "${lists[@]}"
du -ch "$out"/*.whl
