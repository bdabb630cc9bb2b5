"""Where compiled programs are kept."""

import os

import jax

from dcgan_jax.machine.files import cache_folder


def configure_compilation_cache() -> None:
    """Compiled programs are kept in the user's cache folder, so that the second start of a config is quick."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
