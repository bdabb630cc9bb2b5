"""What a trained run is worth in numbers: python -m dcgan_jax.evaluation.NAME --workdir=DIR."""
