#!/usr/bin/env bash
# Checks and measures the GPU, or the TPU chips, of this machine in under ten minutes, without installing anything:
#
#     bash launch/gpu_check.sh [flags of dcgan_jax.benchmark.gpu_check]
#
# The results go to runs/gpu_check/, a page index.html and results.json, unless --out says otherwise. It needs no network,
# but jax 0.10 or newer with the accelerator's plugin, flax, optax, orbax-checkpoint, ml_collections, absl-py and Pillow.
# PyTorch is measured beside it if it is there.
#
# PYTHON names the interpreter (default: .venv/bin/python, or python3 where there is none). WHEELS names a folder of
# wheels of packages in Python alone, such as ml_collections, which are used as they are. --dry-run as the first argument
# prints the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
python=${PYTHON:-python3}
if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then python=.venv/bin/python; fi

path=$PWD
if [[ -n ${WHEELS:-} ]]; then
    for wheel in "$WHEELS"/*.whl; do
        [[ -e $wheel ]] || fail "WHEELS=$WHEELS has no wheels in it."
        path+=:$(realpath "$wheel")
    done
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}

out=(--out=runs/gpu_check)
for flag in "$@"; do
    case $flag in --out | -out | --out=* | -out=*) out=() ;; esac
done
command=("$python" -m dcgan_jax.benchmark.gpu_check ${out[@]+"${out[@]}"} "$@")
if [[ -n $dry_run ]]; then
    run env "PYTHONPATH=$PYTHONPATH" "${command[@]}"
    exit
fi

missing=$("$python" -c '
import importlib.util
needed = {"jax": "jax", "flax": "flax", "optax": "optax", "orbax": "orbax-checkpoint", "absl": "absl-py",
          "ml_collections": "ml_collections", "numpy": "numpy", "PIL": "Pillow"}
print(*(package for module, package in needed.items() if importlib.util.find_spec(module) is None))
') || fail "'$python' cannot be run: name a Python 3.11 or newer, PYTHON=/path/to/python bash launch/gpu_check.sh"
[[ -z $missing ]] || fail "$python lacks $missing. Install them, or bring their wheels along: WHEELS=FOLDER"
"$python" -c 'import jax, sys; sys.exit(jax.__version_info__ < (0, 10))' || fail "jax 0.10 or newer is needed."
exec "${command[@]}"
