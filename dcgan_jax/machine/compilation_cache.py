"""Where compiled programs are kept."""

import jax

from dcgan_jax.machine.files import cache_folder


def use() -> None:
    """Keeps compiled programs in the user's cache folder, so that the second start of a config is quick.

    A folder that is set already, by JAX_COMPILATION_CACHE_DIR or by jax.config, stays.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
