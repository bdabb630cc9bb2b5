#!/usr/bin/env bash
# Trains on a Linux machine with one or several GPUs, all of which one process uses:
#
#     bash launch/gpu_box.sh run [flags of dcgan_jax.main]   in the background, with the environment that suits the GPUs
#     bash launch/gpu_box.sh logs                            follows the output; Ctrl-C leaves the run alone
#     bash launch/gpu_box.sh stop                            the run saves; the same `run` continues it
#
# on this machine, or, with BOX=user@machine in front, on that one over ssh, in ~/dcgan_jax. Then `run` copies this
# working tree there first, and
#
#     BOX=user@machine bash launch/gpu_box.sh fetch         copies its runs/ here
#
# Without --config and --workdir, `run` does what launch/local.sh does. PYTHON names the interpreter of the machine that
# makes the environment (default: python3). --dry-run before the command prints what would be run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1:-}
shift || true
case $command in
    run) ;;
    logs | stop | fetch) [[ $# == 0 ]] || fail "gpu_box.sh $command takes no arguments." ;;
    *) fail "gpu_box.sh needs a command: run, logs, stop or fetch, not '$command'." ;;
esac

# in_background COMMAND ...: launch/background.sh on the machine.
in_background() {
    local there
    if [[ -z ${BOX:-} ]]; then
        run bash launch/background.sh "$@"
    else
        there="cd dcgan_jax && $(quote ${PYTHON:+env "PYTHON=$PYTHON"} bash launch/background.sh "$@")"
        # With a terminal, Ctrl-C ends `logs` on the machine as well.
        if [[ $1 == logs ]]; then run ssh -t "$BOX" "$there"; else run ssh "$BOX" "$there"; fi
    fi
}

case $command in
    run)
        if [[ -n ${BOX:-} ]]; then
            run rsync --archive --compress --delete --exclude=__pycache__ "${source_files[@]}" "$BOX:dcgan_jax/"
        fi
        in_background start "$@"
        ;;
    fetch)
        [[ -n ${BOX:-} ]] || fail "gpu_box.sh fetch needs BOX=user@machine; here the runs are in runs/ already."
        run rsync --archive --compress "$BOX:dcgan_jax/runs/" runs/
        ;;
    *) in_background "$command" ;;
esac
