#!/usr/bin/env bash
# Set up the clients of quantised checkpoints in a virtual environment, for CPU, on top of setup_python.sh's.
#
# usage: setup.sh DIR BASE
#
# BASE is a finished directory of ../setup_python.sh, whose packages are used from where they are; DIR/bin/python is then the
# interpreter for schemes.py. Linux x86-64. Running it again on a finished DIR does nothing.
set -euo pipefail
case "${2:-}" in ''|-h|--help) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2;; esac
dir=$1; base=$2
stamp="$dir/.ready"
[ -e "$stamp" ] && { echo "$dir is ready"; exit 0; }
"$base/bin/python" -m venv "$dir"
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site "$base" > "$(site "$dir")/base.pth"
pip() { "$dir/bin/python" -m pip --disable-pip-version-check -q install --no-compile "$@"; }
# Without their own needs, which would bring torch with its CUDA packages; those follow by name.
pip --no-deps compressed-tensors==0.20.0 bitsandbytes==0.50.2 torchao==0.18.0 optimum==2.3.0
pip loguru pydantic "mlx[cpu]==0.32.4" mlx-lm==0.32.2
pip pypcre tokenicer logbar device-smi defuser dill datasets threadpoolctl
pip --no-deps --no-build-isolation gptqmodel==7.7.0
"$dir/bin/python" -c 'import compressed_tensors, bitsandbytes, torchao, gptqmodel, mlx_lm'
touch "$stamp"
echo "$dir: $(du -sh "$dir" | cut -f1)"
