"""The paper's experiments on a trained run: python -m dcgan_jax.analysis.NAME --workdir=DIR."""
