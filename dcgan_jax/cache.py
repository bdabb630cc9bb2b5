"""The user's cache folder: packed images and compiled programs, both made anew when they are deleted."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/dcgan_jax, or ~/.cache/dcgan_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dcgan_jax"
