"""What everything stands on: devices, processes, files, signals, the heap, random keys, errors."""

import os

# XLA's settings for GPUs: no sums whose order changes from run to run, and no choice of kernels by timing them.
_DETERMINISTIC = ("--xla_gpu_exclude_nondeterministic_ops=true", "--xla_gpu_autotune_level=0")


def set_up() -> None:
    """Gives this process the settings that every command of dcgan_jax runs with. Calling it again changes nothing.

    `dcgan_jax.train`, `dcgan_jax.load` and the command line call it. It changes:

    - glibc's heap (Linux): large buffers stay in the process between training steps; see allocator.py, which
      DCGAN_JAX_MALLOC=0 switches off.
    - jax_cpu_enable_async_dispatch: off with that heap, so that programs run in the thread that calls them. JAX reads
      it when it is first used: a process that has used JAX before gets a warning that says what is lost.
    - jax_compilation_cache_dir: compiled programs are kept in the user's cache folder, unless it is set already.
      JAX_COMPILATION_CACHE_DIR sets it, too.
    """
    from dcgan_jax.machine import allocator, compilation_cache  # import JAX, which processes that decode do without

    allocator.keep_buffers()
    compilation_cache.use()


def repeat_exactly() -> None:
    """Sets XLA's flags for GPUs so that a program gives the same bits in every process.

    Call it before JAX is first used. It keeps the flags that XLA_FLAGS holds already, and changes nothing on CPUs and
    TPUs.
    """
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_DETERMINISTIC]).strip()
