"""Where training images come from, and the pack that every source is turned into.

    sources.py       config.data.source -> Source: how examples are listed and read
    image_folder.py, lsun_lmdb.py, tfds_source.py, toy_bedrooms.py, toy_faces.py    one kind of source each
    decode.py        one image, encoded in any way -> a square uint8 array
    pack.py          a whole source -> images.npy and its companions on disk, built once and memory-mapped afterwards

Nothing here imports JAX or TensorFlow at module level: the processes that decode images import these modules.
"""
