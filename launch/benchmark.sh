#!/usr/bin/env bash
# Measures the cases of docs/performance.md beside PyTorch and rewrites its tables:
#
#     bash launch/benchmark.sh [PYTHON ...]
#
# Each PYTHON is an interpreter of an environment with `pip install -e '.[bench]'` (default: .venv/bin/python). PyTorch is
# measured in up to eight ways, of which torch.compile needs a C++ compiler: allow two to three hours for each PYTHON on
# two cores. The results go to docs/benchmarks/. Further flags of dcgan_jax.benchmark can be given in FLAGS, for example
# FLAGS='--iterations=3'.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p docs/benchmarks
pythons=("$@")
if [[ $# == 0 ]]; then pythons=(.venv/bin/python); fi

# measure NAME FLAG ...: run one case; NAME.json is its result.
measure() {
    local name=$1 version
    shift
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # shellcheck disable=SC2086  # FLAGS holds several
    "$python" -m dcgan_jax.benchmark "$@" --config.update_order=discriminator_first \
        --output="docs/benchmarks/$name-python$version.json" ${FLAGS:-}
}

paper=(--config=configs/lsun.py)
# The network of the PyTorch example: 4x4 kernels, 64 to 512 maps, batch normalisation per channel.
example=(--config=configs/lsun.py --config.model.kernel_size=4 --config.model.width=0.5
    --config.model.generator.projection_norm=channel --config.model.norm_epsilon=1e-5)
svhn=(--config=configs/svhn.py)
# At 128 pixels, quarter width. The images are random: the folder need not exist.
folder128=("--config=configs/folder.py:images,128" --config.model.width=0.25)

for python in "${pythons[@]}"; do
    measure paper-batch64 "${paper[@]}" --batch_size=64 --peer=torch
    measure paper-batch128 "${paper[@]}" --batch_size=128 --peer=torch --iterations=7
    measure paper-dropout-batch64 "${paper[@]}" --batch_size=64 --config.model.discriminator.dropout=0.5 --peer=torch
    measure example-batch64 "${example[@]}" --batch_size=64 --peer=torch --iterations=15
    measure toy_bedrooms-batch32 --config=configs/toy_bedrooms.py --batch_size=32 --peer=torch --iterations=15
    measure folder128-batch32 "${folder128[@]}" --batch_size=32 --peer=torch --iterations=15
    measure svhn-batch128 "${svhn[@]}" --batch_size=128 --peer=torch --iterations=15
    measure svhn-half-batch64 "${svhn[@]}" --batch_size=64 --config.model.width=0.5 --peer=torch --iterations=15
    measure imagenet32-batch128 --config=configs/imagenet32.py --batch_size=128 --peer=torch
    measure mnist-batch128 --config=configs/mnist.py --batch_size=128 --peer=torch --iterations=15
done

# XLA's own convolutions take three minutes a step for the paper's network, and warming up takes six.
python=${pythons[0]}
measure lax-paper-batch64 "${paper[@]}" --batch_size=64 --peer=lax --iterations=1
measure lax-example-batch64 "${example[@]}" --batch_size=64 --peer=lax --iterations=2
measure lax-svhn-batch128 "${svhn[@]}" --batch_size=128 --peer=lax --iterations=2
measure lax-svhn-half-batch64 "${svhn[@]}" --batch_size=64 --config.model.width=0.5 --peer=lax --iterations=2
measure scaling "${example[@]}" --batch_size=64 --scaling --iterations=5

"$python" -m dcgan_jax.benchmark.report docs/benchmarks docs/performance.md
