#!/usr/bin/env bash
# Runs the tests on the CPU: bash launch/test.sh [--long] [flags of pytest]
#
# Makes .venv and installs the package on first use. --long runs the long tests instead of the short ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup_env.sh

for flag in "$@"; do
    shift
    if [[ $flag == --long ]]; then set -- "$@" -m long; else set -- "$@" "$flag"; fi
done

set_up_env test
exec .venv/bin/python -m pytest "$@"
