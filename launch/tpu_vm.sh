#!/usr/bin/env bash
# Trains on Cloud TPU VMs, v5e or v6e, one host or many, through gcloud:
#
#     bash launch/tpu_vm.sh create NAME TYPE [--spot]   asks for them; TYPE is v5litepod-N or v6e-N, N chips
#     bash launch/tpu_vm.sh status NAME                 ACTIVE: they are there; SUSPENDED: they were taken away
#     bash launch/tpu_vm.sh install NAME                copies this working tree to all hosts and sets them up
#     bash launch/tpu_vm.sh run NAME --config=configs/cifar10.py --workdir=gs://BUCKET/runs/cifar10 [more flags of main]
#     bash launch/tpu_vm.sh logs NAME [HOST]            follows a host's output (default: 0) until Ctrl-C
#     bash launch/tpu_vm.sh stop NAME                   the run saves; the same `run` continues it
#     bash launch/tpu_vm.sh fetch NAME WORKDIR          copies a run's folder into runs/
#     bash launch/tpu_vm.sh delete NAME                 ends the cost
#
# ZONE names the zone (default: gcloud's compute/zone). `run` starts the run in the background of all hosts. When they
# were taken away, `delete`, `create`, `install` and the same `run` continue it. gs://BUCKET/... in its flags is read
# and written through Cloud Storage FUSE, as /mnt/gcs/BUCKET. More than 8 chips are on several hosts, which need such a
# --workdir, or one on another file system that they share. --dry-run before the command prints what would be run.
#
# This is Google's Cloud TPU API, which gets bug fixes only. TPU7x and newer chips are not in it: they are to be had as
# Compute Engine instances (one host) and managed instance groups with a workload policy (slices), with Flex-start in
# place of queued resources, https://docs.cloud.google.com/tpu/docs/tpus-in-compute-engine, or in GKE, for which there
# is launch/gke.sh. launch/tpu_host.sh and launch/background.sh do on any such host what they do on these.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

# tpus COMMAND ...: gcloud compute tpus, in the zone.
tpus() {
    run gcloud compute tpus "$@" ${ZONE:+"--zone=$ZONE"}
}

# on_hosts WORKER SCRIPT: run a line of shell on a host, or on all.
on_hosts() {
    tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1:-} name=${2:-}
case $command in
    create | status | install | run | logs | stop | fetch | delete) ;;
    *) fail "tpu_vm.sh needs a command: create, status, install, run, logs, stop, fetch or delete, not '$command'." ;;
esac
[[ -n $name && $name != -* ]] || fail "tpu_vm.sh $command needs the name of the TPU VMs."
shift 2

case $command in
    create)
        type=${1:-} spot=${2:-}
        case $type in
            v5litepod-[0-9]*) version=v2-alpha-tpuv5-lite ;;
            v6e-[0-9]*) version=v2-alpha-tpuv6e ;;
            *) fail "'$type' is not a type of TPU VM: v5litepod-N or v6e-N with N chips, for example v5litepod-8." ;;
        esac
        [[ $# -le 2 && ($spot == "" || $spot == --spot) ]] || fail "tpu_vm.sh create takes NAME TYPE [--spot]."
        tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
            --runtime-version="$version" ${spot:+"$spot"}
        ;;
    run)
        use_bucket "$@"
        start=$(quote env EXTRAS=tpu bash launch/background.sh start "${flags[@]}")
        on_hosts all "cd dcgan_jax && ${bucket:+bash launch/tpu_host.sh mount $bucket && }$start"
        ;;
    logs)
        worker=${1:-0}
        [[ $# -le 1 && $worker =~ ^[0-9]+$ ]] || fail "tpu_vm.sh logs takes NAME [HOST], a number from 0."
        on_hosts "$worker" "cd dcgan_jax && bash launch/background.sh logs"
        ;;
    fetch)
        workdir=${1:-}
        [[ $# == 1 ]] || fail "tpu_vm.sh fetch takes NAME WORKDIR, the --workdir of a run."
        workdir=${workdir%/}
        run mkdir -p "runs/${workdir##*/}"
        if [[ $workdir == gs://* ]]; then
            run gcloud storage rsync --recursive "$workdir" "runs/${workdir##*/}"
        else
            if [[ $workdir != /* ]]; then workdir=dcgan_jax/$workdir; fi
            tpus tpu-vm scp --recurse --worker=0 "$name:$workdir" runs/
        fi
        ;;
    *)
        [[ $# == 0 ]] || fail "tpu_vm.sh $command takes NAME only, not '$1'."
        case $command in
            status) tpus queued-resources describe "$name" --format="value(state.state)" ;;
            install)
                archive=${TMPDIR:-/tmp}/dcgan_jax.tar.gz
                run tar --exclude=__pycache__ -czf "$archive" "${source_files[@]}"
                tpus tpu-vm scp "$archive" "$name:" --worker=all
                on_hosts all "mkdir -p dcgan_jax && tar -xzf dcgan_jax.tar.gz -C dcgan_jax && \
bash dcgan_jax/launch/tpu_host.sh setup"
                ;;
            stop) on_hosts all "cd dcgan_jax && bash launch/background.sh stop" ;;
            delete) tpus queued-resources delete "$name" --force ;;
        esac
        ;;
esac
