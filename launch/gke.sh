#!/usr/bin/env bash
# Trains in a GKE cluster, on TPUs or GPUs, through kubectl:
#
#     IMAGE=REGISTRY/dcgan_jax:tpu bash launch/gke.sh apply NAME TYPE \
#         --config=configs/cifar10.py --workdir=gs://BUCKET/runs/cifar10 [flags of dcgan_jax.main]
#     bash launch/gke.sh logs NAME     follows the output of the first host; Ctrl-C leaves the run alone
#     bash launch/gke.sh delete NAME   the run saves; `apply` continues it
#
# TYPE is v5litepod-N or v6e-N, N TPU chips, or KIND:GPUS or KIND:GPUSxNODES of GKE's accelerators: nvidia-h100-80gb:8x2
# is two nodes with eight each. launch/Dockerfile makes the image; launch/gke_jobset.yaml is what is applied, when it is
# filled in; launch/README.md says what the cluster must have. --dry-run before the command prints what would be applied
# or run.
# shellcheck disable=SC2034  # variables are used by name, in `manifest`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

# What launch/gke_jobset.yaml leaves open; YAML reads JSON.
NAME="" BUCKET="" HOSTS="" ANNOTATIONS="{}" NODES="" LIMITS="" ARGS=""
IMAGE=${IMAGE:-}

# The first argument as chips, their arrangement and hosts.
read_type() {
    local kind chips topology count gpus
    case $1 in
        v5litepod-* | v6e-*)
            kind=tpu-v6e-slice chips=${1##*-}
            if [[ $1 == v5litepod-* ]]; then kind=tpu-v5-lite-podslice; fi
            case $chips in
                1) topology=1x1 ;;
                4) topology=2x2 ;;
                8) topology=2x4 ;;
                16) topology=4x4 ;;
                32) topology=4x8 ;;
                64) topology=8x8 ;;
                128) topology=8x16 ;;
                256) topology=16x16 ;;
                *) fail "'$1': there are slices of 1, 4, 8, 16, 32, 64, 128 and 256 chips." ;;
            esac
            HOSTS=1
            # Slices of several hosts have four chips on each.
            if ((chips > 8)); then HOSTS=$((chips / 4)) chips=4; fi
            NODES="{\"cloud.google.com/gke-tpu-accelerator\": \"$kind\""
            NODES+=", \"cloud.google.com/gke-tpu-topology\": \"$topology\"}"
            LIMITS="{\"google.com/tpu\": $chips}"
            # All hosts in one slice, which is a node pool.
            ANNOTATIONS='{"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}'
            ;;
        *)
            [[ $1 =~ ^(nvidia-[-a-z0-9]+):([1-9][0-9]*)(x([1-9][0-9]*))?$ ]] ||
                fail "'$1' is not a type: v5litepod-16, v6e-8, nvidia-l4:1, nvidia-h100-80gb:8x2, ..."
            kind=${BASH_REMATCH[1]} gpus=${BASH_REMATCH[2]} count=${BASH_REMATCH[4]:-1}
            HOSTS=$count
            NODES="{\"cloud.google.com/gke-accelerator\": \"$kind\"}"
            LIMITS="{\"nvidia.com/gpu\": $gpus}"
            ;;
    esac
}

# json_list WORD ...: a JSON list of strings.
json_list() {
    local word list=""
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        list+=", \"$word\""
    done
    echo "[${list#, }]"
}

# manifest: launch/gke_jobset.yaml with every ${VARIABLE} filled in.
manifest() {
    local line variable
    while IFS= read -r line; do
        for variable in NAME BUCKET HOSTS ANNOTATIONS NODES LIMITS IMAGE ARGS; do
            if [[ $line == *"\${$variable}"* ]]; then
                line=${line%%"\${$variable}"*}${!variable}${line#*"\${$variable}"}
            fi
        done
        printf '%s\n' "$line"
    done <launch/gke_jobset.yaml
}

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
command=${1:-} NAME=${2:-}
case $command in
    apply | logs | delete) ;;
    *) fail "gke.sh needs a command: apply, logs or delete, not '$command'." ;;
esac
# Kubernetes names services and hosts after it.
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "gke.sh $command needs a name of small letters, digits and hyphens, not '$NAME'."
shift 2

case $command in
    apply)
        read_type "${1:-}"
        shift
        [[ -n $IMAGE ]] || fail "gke.sh apply needs IMAGE=REGISTRY/NAME:TAG, made with launch/Dockerfile."
        use_bucket "$@"
        [[ -n $bucket ]] || fail "--workdir=$workdir would be lost with the pods: --workdir=gs://BUCKET/FOLDER."
        BUCKET=$bucket ARGS=$(json_list "${flags[@]}")
        if [[ -n $dry_run ]]; then
            manifest
            echo "# kubectl apply -f -"
        else
            manifest | kubectl apply -f -
        fi
        ;;
    logs)
        [[ $# == 0 ]] || fail "gke.sh logs takes NAME only, not '$1'."
        run kubectl logs --follow --tail=100 --container=main \
            --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
        ;;
    delete)
        [[ $# == 0 ]] || fail "gke.sh delete takes NAME only, not '$1'."
        run kubectl delete jobset "$NAME"
        ;;
esac
