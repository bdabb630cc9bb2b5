#!/usr/bin/env bash
# What launch/tpu_vm.sh does on each host of Cloud TPU VMs; they run Ubuntu:
#
#     bash launch/tpu_host.sh setup           a Python that is new enough, .venv, Cloud Storage FUSE
#     bash launch/tpu_host.sh mount BUCKET    the bucket as the folder /mnt/gcs/BUCKET, if it is not there yet
#
# --dry-run before the command prints what would be run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
source launch/setup_env.sh

if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi

setup() {
    local packages=https://packages.cloud.google.com/apt keyring=/usr/share/keyrings/cloud.google.asc
    if ! command -v gcsfuse >/dev/null; then
        run sudo curl --fail --silent --show-error --output "$keyring" "$packages/doc/apt-key.gpg"
        run sudo bash -c "echo deb [signed-by=$keyring] $packages gcsfuse-\$(lsb_release -cs) main \
>/etc/apt/sources.list.d/gcsfuse.list"
        # A new machine may still be busy with updates of its own.
        run sudo apt-get -o DPkg::Lock::Timeout=600 -q update
        run sudo apt-get -o DPkg::Lock::Timeout=600 -qy install gcsfuse
    fi
    # The images are Ubuntu 22.04, whose Python is 3.10.
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        run python3 -m pip install --quiet --user uv
        run python3 -m uv python install 3.12
        if [[ -z $dry_run ]]; then PYTHON=$(python3 -m uv python find 3.12); fi
    fi
    run set_up_env tpu
}

mount_bucket() {
    local folder=/mnt/gcs/$1
    if mountpoint -q "$folder"; then return; fi
    run sudo mkdir -p "$folder"
    run sudo chown "$(id -un)" "$folder"
    # Without caches, since hosts read what others have just written. The limit concerns buckets without folders.
    run gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 \
        --metadata-cache-negative-ttl-secs=0 "$1" "$folder"
}

case "${1:-} $#" in
    "setup 1") setup ;;
    "mount 2") mount_bucket "$2" ;;
    *) fail "tpu_host.sh takes 'setup' or 'mount BUCKET', not '$*'." ;;
esac
