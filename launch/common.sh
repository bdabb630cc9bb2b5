# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is used there
# Sourced by the launchers of other machines: tpu_vm.sh, tpu_host.sh, gke.sh, gpu_box.sh, background.sh, slurm.sh.

dry_run=""

# What a machine that trains needs of the repository.
source_files=(configs dcgan_jax launch setup.cfg pyproject.toml README.md LICENSE)

# fail MESSAGE ...: a mistake of the user's, reported in one line; exit status 2, as dcgan_jax.main has it.
fail() {
    echo "error: $*" >&2
    exit 2
}

# quote WORD ...: print the words as a shell reads them back.
quote() {
    local word line="" escaped="'\\''"
    for word in "$@"; do
        if [[ ! $word =~ ^[-A-Za-z0-9_@%+=:,./~]+$ ]]; then word="'${word//\'/$escaped}'"; fi
        line+=" $word"
    done
    echo "${line# }"
}

# run COMMAND ...: run it; under --dry-run print it instead.
run() {
    if [[ -n $dry_run ]]; then quote "$@"; else "$@"; fi
}

# use_bucket FLAG ...: set `workdir` to the value of --workdir, `bucket` to the bucket that it is in ('' if it is a
# folder), and `flags` to the flags with /mnt/gcs/BUCKET/..., where the bucket is mounted, for gs://BUCKET/...
use_bucket() {
    local flag
    workdir="" bucket="" flags=()
    for flag in "$@"; do
        case $flag in --workdir=* | -workdir=*) workdir=${flag#*=} ;; esac
    done
    [[ -n $workdir ]] || fail "--workdir=gs://BUCKET/FOLDER is missing: where the run is saved."
    if [[ $workdir == gs://* ]]; then
        bucket=${workdir#gs://}
        [[ $bucket == */?* ]] || fail "--workdir=$workdir names no folder in the bucket: gs://BUCKET/FOLDER."
        bucket=${bucket%%/*}
        [[ $bucket =~ ^[a-z0-9][-a-z0-9._]+$ ]] || fail "'$bucket' is not the name of a bucket."
    fi
    for flag in "$@"; do
        if [[ -n $bucket ]]; then flag=${flag//gs:\/\/$bucket\///mnt/gcs/$bucket/}; fi
        [[ $flag != *gs://* ]] || fail "$flag is in another bucket than --workdir; only that one is mounted."
        flags+=("$flag")
    done
}

# --- Waiting for a run, and what its exit status says ------------------------------------------------------------

signals=0 # counts those that a trap of the launcher's has caught

# await PID: wait until a child has ended, also while traps catch signals; `status` is its exit status.
await() {
    local before
    while true; do
        before=$signals status=0
        wait "$1" || status=$?
        # A trap interrupts `wait`, which then returns 128 + signal, whatever the child will do.
        if [[ $signals == "$before" ]]; then return; fi
    done
}

# continues STATUS RESTARTS: whether the same command is to be given again, which was given again RESTARTS times before.
# 75 (EX_TEMPFAIL): the run was asked to stop, and saved. 143: it was asked before there was anything to save. 76
# (EX_PROTOCOL): another process of the run is gone; 134 (SIGABRT): JAX's runtime found that out first. But it aborts for
# other reasons too, and the other process may never come back: ten restarts are enough. All others are final: 0
# finished, 1 crashed, 2 a mistake.
continues() {
    case $1 in
        75 | 143) ;;
        76 | 134) (($2 < 10)) ;;
        *) return 1 ;;
    esac
}
