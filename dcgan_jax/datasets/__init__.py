"""Where training images come from, and the pack that every source is turned into.

    sources.py       config.data.source -> Source: how examples are listed and read
    image_folder.py (labels: metadata.py), zip_archive.py, lsun_lmdb.py, array_file.py, idx_file.py, parquet_file.py,
    tfds_source.py, hf_source.py, toy_bedrooms.py, toy_faces.py    one kind of source each
    classes.py       classes by name: their order, their choice, the labels of another set
    decode.py        one image, encoded in any way -> a square uint8 array
    pack.py          a whole source -> images.npy and its companions on disk, built once and memory-mapped afterwards:
                     chunks.py decodes the images, pack_writer.py writes them, image_dataset.py is what is opened

Nothing here imports JAX or TensorFlow at module level: the processes that decode images import these modules.
"""
