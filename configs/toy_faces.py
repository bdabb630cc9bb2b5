"""Rendered faces at 64 pixels: the latent-space experiments with known factors, no download.

    python -m dcgan_jax.main --config=configs/toy_faces.py --workdir=runs/toy_faces

Data: 20,000 images drawn by dcgan_jax/datasets/toy_faces.py with known factors (woman or man, smile, glasses, head
turned left or right, skin, hair); a 246 MB pack in the user's cache folder.

Deviates from the paper exactly as configs/toy_bedrooms.py does. Cost: twice that of configs/toy_bedrooms.py.
"""

from ml_collections import ConfigDict

from configs import toy_bedrooms


def get_config() -> ConfigDict:
    config = toy_bedrooms.get_config()
    config.data.source = "toy_faces"
    config.data.num_examples = 20_000
    config.num_steps = 8000
    return config
