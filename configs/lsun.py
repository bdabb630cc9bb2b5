"""LSUN bedrooms at 64 pixels: the main run of the paper (section 4.1, figures 1 to 3).

    python -m dcgan_jax.main --config=configs/lsun.py --workdir=runs/lsun \
        --config.data.source=lsun:/data/bedroom_train_lmdb

Data: 3,033,042 images, an LMDB in a zip of 46 GB from the LSUN project (https://www.yf.io/p/lsun, script
`download.py -c bedroom`); the pack takes 37 GB more in the cache folder. Centre crop, resized to 64 pixels.

The paper: 1024-512-256-128 maps, 5x5, z uniform of 100, batch 128, Adam 2e-4 and 0.5; samples after one epoch (figure
2) and five epochs (figure 3). The authors' LSUN script was never released; L2, update order and batch normalisation are
taken from their faces script: G first, then D on fresh noise.

The paper removed about 275,000 near-duplicates before training (section 4.1.1), and so does this config. It decodes the
images twice for that, and keeps a second pack of 9.3 GB at 32 pixels (`--config.data.dedup=False` keeps all images).

Cost: five epochs are 118,480 of the authors' minibatches, which update one network each: 59,240 steps here, of 128
images at 15.3 GFLOP (analytic count).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.source = "lsun:bedroom_train_lmdb"
    config.data.dedup = True
    config.num_steps = 59_240
    config.checkpoint_every = 2000
    return config
