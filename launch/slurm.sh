#!/usr/bin/env bash
#SBATCH --job-name=dcgan_jax
#SBATCH --output=dcgan_jax-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#
# Trains in a Slurm job of one or several nodes. Once, from the repository's root on the login node, for NVIDIA GPUs
# (launch/setup_env.sh has the other extras):
#
#     bash -c 'source launch/setup_env.sh && set_up_env cuda'
#
# Then, from there as well, with one task for each GPU, and whatever else your cluster asks for (--partition, --time):
#
#     sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 launch/slurm.sh \
#         --config=configs/cifar10.py --workdir=/shared/runs/cifar10 [flags of dcgan_jax.main]
#
# All tasks must see all GPUs of their node: no --gpus-per-task and no --gpu-bind. A single task uses all GPUs that it
# sees. The repository and --workdir lie on a file system that the nodes share.
#
# Two minutes before the time limit Slurm sends SIGTERM; the run saves and ends with 75, and the job goes back to the
# queue, to continue when it starts again. The same happens when one of its processes is lost (76 or 134), unless it went
# back ten times before. To stop it for good:
#
#     scancel --batch --signal=USR1 JOB   the run saves, and the job ends; the same sbatch continues it
#     scancel JOB                         does not wait until it has saved
#
# `bash launch/slurm.sh --dry-run FLAGS` prints what a job would run.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # Slurm runs a copy of this file from a folder of its own
if [[ ! -e launch/common.sh ]]; then
    echo "error: $PWD is not the repository's root; give sbatch from there." >&2
    exit 2
fi
source launch/common.sh

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
[[ " $*" == *" --config="* && " $*" == *" --workdir="* ]] || fail "slurm.sh needs --config=FILE and --workdir=FOLDER."

# Some clusters end a step when its first task fails; here that one would be the first to have saved. One that hangs, so
# that the others gave it up, is ended five minutes after them.
step=(srun --kill-on-bad-exit=0 --wait=300 .venv/bin/python -m dcgan_jax.main "$@")
if [[ -n $dry_run ]]; then
    quote "${step[@]}"
    echo "scontrol requeue \$SLURM_JOB_ID # if that ends with 75, 76, 134 or 143"
    exit
fi
[[ -n ${SLURM_JOB_ID:-} ]] || fail "slurm.sh runs in a job: sbatch [flags of sbatch] launch/slurm.sh FLAGS"
[[ -x .venv/bin/python ]] || fail "there is no .venv in $PWD; the head of launch/slurm.sh says how to make it."

# tell_tasks: SIGTERM for all tasks. srun itself does not pass it on: it kills them then.
# shellcheck disable=SC2329  # called by the traps
tell_tasks() {
    signals=$((signals + 1))
    scancel --signal=TERM "$SLURM_JOB_ID" || true
}

stopping=""
trap tell_tasks TERM
trap 'stopping=1; tell_tasks' USR1
"${step[@]}" &
await $!
if continues "$status" "${SLURM_RESTART_COUNT:-0}" && [[ -z $stopping ]]; then
    # A job that scancel ends is COMPLETING by now; it could be requeued, against the user's will.
    if [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
        echo "Exit status $status: job $SLURM_JOB_ID goes back to the queue and will continue."
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
