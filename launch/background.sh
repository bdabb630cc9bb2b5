#!/usr/bin/env bash
# Trains in the background of this Linux machine, so that a lost connection does not stop it:
#
#     bash launch/background.sh start [flags of dcgan_jax.main]   as launch/local.sh takes them
#     bash launch/background.sh logs                              follows the output; Ctrl-C leaves the run alone
#     bash launch/background.sh stop                              the run saves; returns when it has ended
#
# `start` again with the same flags continues the run. A run that was stopped by somebody else (exit status 75, or 143
# before there was anything to save) is started again at once; so is one that has lost another process (76 or 134), until
# it has been started again ten times. One run at a time; its output is added to
# runs/background.log. --dry-run before the command prints what would be run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

log=runs/background.log
lock=runs/background.lock # held by a run and all its processes
pid=runs/background.pid

is_running() {
    [[ -e $lock ]] && ! flock --nonblock "$lock" true
}

start() {
    if [[ -n $dry_run ]]; then
        echo "setsid $(quote bash launch/background.sh supervise "$@") </dev/null >>$log 2>&1 &"
        return
    fi
    mkdir -p runs
    if is_running; then fail "a run is active here; stop it first: bash launch/background.sh stop"; fi
    rm -f "$pid"
    setsid bash launch/background.sh supervise "$@" </dev/null >>"$log" 2>&1 &
    until [[ -s $pid ]]; do sleep 0.1; done
    echo "Started. Output: $PWD/$log"
}

# What runs in the background.
supervise() {
    exec 9>"$lock"
    flock --nonblock 9 || fail "a run is active here."
    echo "=== $(date): $(quote "$@")"
    child="" restarts=0
    trap 'signals=$((signals + 1)); [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM
    echo $$ >"$pid"
    while true; do
        bash launch/local.sh "$@" &
        child=$!
        if ((signals)); then kill -TERM "$child" 2>/dev/null || true; fi # `stop` came between two runs
        await "$child"
        child=""
        echo "=== $(date): exit status $status"
        if ((signals)) || ! continues "$status" "$restarts"; then exit "$status"; fi
        restarts=$((restarts + 1))
        sleep 1
    done
}

stop() {
    if [[ -n $dry_run ]]; then
        echo "kill -TERM \$(cat $pid)"
    elif is_running; then
        kill -TERM "$(cat "$pid")"
        echo "Told the run to stop; waiting until it has saved ..."
        flock "$lock" true
        tail -n 1 "$log"
    else
        echo "No run is active here."
    fi
}

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1:-}
shift || true
case $command in
    start | supervise) "$command" "$@" ;;
    logs | stop)
        [[ $# == 0 ]] || fail "background.sh $command takes no arguments."
        if [[ $command == stop ]]; then stop; else run tail -n 100 -F "$log"; fi
        ;;
    *) fail "background.sh needs a command: start, logs or stop, not '$command'." ;;
esac
