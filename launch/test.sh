#!/usr/bin/env bash
# Runs the tests on the CPU: bash launch/test.sh [--long] [flags of pytest]
#
# Makes .venv and installs the package on first use. --long runs the long tests, one after the other, instead of the short
# ones, which run in two processes where there are two cores (-n 0: in one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup_env.sh

long=""
for flag in "$@"; do
    shift
    if [[ $flag == --long ]]; then long=yes; else set -- "$@" "$flag"; fi
done
if [[ $long ]]; then set -- -m long "$@"; else set -- -n auto --maxprocesses=2 "$@"; fi

set_up_env test
exec .venv/bin/python -m pytest "$@"
