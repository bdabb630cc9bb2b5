#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh [flags of dcgan_jax.main]
#
# Makes .venv and installs the package on first use. Without --config it trains configs/toy_bedrooms.py; without
# --workdir the run's folder is runs/ followed by the config's name. Relative paths start at the repository's root.
# PYTHON and EXTRAS are explained in launch/setup_env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup_env.sh

config="" workdir="" previous=""
for flag in "$@"; do
    case $flag in
        --config=* | -config=*) config=${flag#*=} ;;
        --workdir=* | -workdir=*) workdir=${flag#*=} ;;
    esac
    case $previous in
        --config | -config) config=$flag ;;
        --workdir | -workdir) workdir=$flag ;;
    esac
    previous=$flag
done
if [[ -z $config ]]; then
    config=configs/toy_bedrooms.py
    set -- --config="$config" "$@"
fi
if [[ -z $workdir ]]; then
    name=${config%%.py*} # configs/folder.py:/path has an argument
    set -- --workdir="runs/${name##*/}" "$@"
fi

set_up_env "$(accelerator_extra)"
exec .venv/bin/python -m dcgan_jax.main "$@"
