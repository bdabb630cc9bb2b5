# shellcheck shell=bash
# Sourced by launch/*.sh and .ci/run, with the repository's root as the working directory.
#
# Variables for the user:
#   PYTHON   the interpreter that makes .venv, read only when .venv is made (default: python3)
#   EXTRAS   extras of setup.cfg that launch/local.sh installs, '' for none (default: what suits the accelerator)

# set_up_env EXTRAS: make .venv if there is none and install the package with EXTRAS (comma-separated, '' for none).
#
# Returns at once when setup.cfg, pyproject.toml and the folder are those of the last install. An install that did not
# finish may leave packages behind that pip takes for complete, so the next call starts over with a new .venv.
set_up_env() (
    # Two launches at the same time: the second waits for the first. Closed with this subshell. macOS has no flock.
    exec 9>.venv.lock
    if command -v flock >/dev/null; then flock 9 || true; fi

    extras=$1
    installed=.venv/installed-${extras:-base}
    unfinished=.venv/unfinished
    wanted="$PWD $(cat setup.cfg pyproject.toml | cksum)"
    if [[ ! -e $unfinished && -x .venv/bin/python && $(cat "$installed" 2>/dev/null) == "$wanted" ]]; then
        return
    fi

    if [[ -e $unfinished ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        make_venv || return 1
    fi
    echo "Installing dcgan_jax${extras:+[$extras]} into .venv ..." \
        "(The first time takes minutes and downloads 0.6 GB, more for a GPU.)" >&2
    touch "$unfinished"
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"; then
        echo "The installation into .venv failed; pip's message is above. Run the same command again." >&2
        # pip gave up by itself, most often over a download: an environment that was complete before is still sound.
        if compgen -G ".venv/installed-*" >/dev/null; then rm "$unfinished"; fi
        return 1
    fi
    echo "$wanted" >"$installed"
    rm "$unfinished"
)

make_venv() {
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "dcgan_jax needs Python 3.11 or newer," \
            "but '$python' is $("$python" --version 2>/dev/null || echo missing)." \
            "Install a newer one, or name it: PYTHON=/path/to/python3.12 bash $0" >&2
        return 1
    fi
    echo "Making .venv with $("$python" --version) ..." >&2
    rm -rf .venv
    mkdir .venv
    touch .venv/unfinished
    if ! "$python" -m venv .venv >&2; then
        echo "'$python -m venv' failed. On Debian and Ubuntu install the package python3-venv, or name another" \
            "interpreter: PYTHON=/path/to/python3.12 bash $0" >&2
        return 1
    fi
}

# accelerator_extra: print the extra that this machine's accelerator needs (cuda, cuda12, tpu), or an empty line.
accelerator_extra() {
    local gpu driver capability
    if [[ -n ${EXTRAS+set} ]]; then
        echo "$EXTRAS"
    elif gpu=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null); then
        # One line per GPU, such as '580.65.06, 9.0'; the first one speaks for all.
        IFS=', ' read -r driver capability <<<"$gpu"
        # What the CUDA 13 wheels of jax ask for.
        if ((${driver%%.*} >= 580 && ${capability/./} >= 75)); then echo cuda; else echo cuda12; fi
    elif tpu_visible; then
        echo tpu
    else
        echo
    fi
}

# tpu_visible: whether a PCI device of Google's is present that is neither storage (class 01) nor network (class 02).
tpu_visible() {
    local device
    for device in /sys/bus/pci/devices/*; do
        if [[ $(cat "$device/vendor" 2>/dev/null) == 0x1ae0 && $(cat "$device/class") != 0x0[12]* ]]; then
            return 0
        fi
    done
    return 1
}
