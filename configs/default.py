"""Every field once, with the values of the paper and of the authors' faces script.

Other configs start from `get_config()` here and change what their experiment changes. Override any field on the
command line: `--config.batch_size=64 --config.data.source=folder:/my/photos`.

Sources: [P] Radford, Metz, Chintala, ICLR 2016 (arXiv 1511.06434); [C] the authors' code, Newmu/dcgan_code,
faces/train_uncond_dcgan.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The 64-pixel network of the paper: 1024-512-256-128 maps, 5x5 kernels, 18.9 M + 17.2 M parameters."""
    config = ConfigDict()

    # --- The run -------------------------------------------------------------------------------------------------
    # Every random draw of the run derives from this number.
    config.seed = 0
    # Training steps. One step updates both networks once and uses one minibatch of real images. (In [C] a minibatch
    # updates one network only: two of the authors' updates are one step here.)
    config.num_steps = 50_000
    # Images per step, over all devices together [P section 4].
    config.batch_size = 128
    # Steps between metric lines, sample sheets and checkpoints. The last step always does all three. 0: it alone does.
    config.log_every = 100
    config.sample_every = 500
    config.checkpoint_every = 1000
    # Steps between evaluations, see `eval`; the last step evaluates too. 0: none at all. One of this and
    # checkpoint_every must be a multiple of the other.
    config.eval_every = 0
    # How many of the newest checkpoints stay on disk; the best one of a run with evaluations stays too.
    config.keep_checkpoints = 3
    # Checkpoints of multiples of this step stay as well; 0: none.
    config.keep_every = 0
    # When a loss or gradient is not finite: 'stop', or 'rollback' to the newest checkpoint and continue from there with
    # other noise.
    config.on_nonfinite = "stop"
    # When training collapses, see docs/reliability.md: 'warn' and train on, 'stop', or 'rollback' to the best
    # checkpoint before it and continue from there with other noise and half the discriminator's learning rate. Ten
    # sheets, see sample_every, should take longer than the beginning.
    config.on_collapse = "warn"
    # Rollbacks of both kinds in a run; after so many it stops.
    config.max_rollbacks = 3

    # --- Data ----------------------------------------------------------------------------------------------------
    config.data = data = ConfigDict()
    # 'folder:/path' (or a .zip of images), 'tfds:NAME', 'hf:NAME', 'lsun:/path/to/X_train_lmdb', 'array:/path.npz',
    # 'idx:/path/X-images-idx3-ubyte.gz', 'parquet:/path', 'pack:/path', 'toy_bedrooms' or 'toy_faces'.
    data.source = "toy_bedrooms"
    # Split of a TFDS or Hugging Face set ('train', 'train[:90%]', 'train+test', ...) or of a toy set ('train', 'test').
    data.split = "train"
    # TFDS data folder, or cache of Hugging Face; '' is their own default (~/tensorflow_datasets, ~/.cache/huggingface).
    data.dir = ""
    # Where packed images live; '' is the user's cache folder (~/.cache/dcgan_jax).
    data.cache_dir = ""
    # Height of the training images in pixels, their width (0: as much as the height), and 1 (grey) or 3 (RGB) channels.
    data.image_size = 64
    data.image_width = 0
    data.channels = 3
    # What images of another aspect (width over height) become: 'crop' cuts out the largest centred rectangle of the
    # right aspect; 'squeeze' resizes the whole image, whatever becomes of its aspect; 'pad' lays it centred on black.
    data.fit = "crop"
    # Of square images, the side of the centred square that is cut out before resizing; 0 is the largest one that fits.
    data.crop_size = 0
    # Images that would have to be enlarged are; otherwise they cannot be used.
    data.allow_upsampling = False
    # More than 1 % of images that cannot be used are refused; with 'skip', small ones do not count and are left out.
    data.small_images = "refuse"
    # Use only this many examples; 0 is all. TFDS sets, which are shuffled, give the first ones; files, databases and
    # arrays give every n-th, from all classes. Toy sets render this many (0: 20,000).
    data.num_examples = 0
    # So many images of files, databases or arrays, evenly spread, are not trained on: config.eval.split='held_out'
    # names them. Sets with splits have others.
    data.held_out = 0
    # Leave near-duplicates out: all but the first of those with the same semantic hash [P section 4.1.1].
    data.dedup = False
    # Bits of the 128 in which duplicates may differ; 0 [P].
    data.dedup_radius = 0
    # A duplicates.txt of `python -m dcgan_jax.datasets.dedup`: leave those out, the same ones on every machine. The
    # hashes of data.dedup come from a network that each machine trains, and rounding decides about some images.
    data.duplicates = ""
    # 'x': left and right of training images are exchanged; every step decides for each image, with probability 1/2.
    # Labels that name a side, and digits or letters, become wrong. 'none' [P, C].
    data.flip = "none"
    # Where batches are gathered: 'device' (the whole set in device memory), 'host' (streamed), or 'auto': on a GPU or
    # TPU where the set and the step fit.
    data.placement = "auto"

    # --- Networks ------------------------------------------------------------------------------------------------
    config.model = model = ConfigDict()
    # Noise: dimensions, and 'uniform' on [-1, 1] [P, C] or 'normal'.
    model.z_dim = 100
    model.z_distribution = "uniform"
    # Side of every convolution kernel: 3, 4 or 5 [C].
    model.kernel_size = 5
    # Range of the images: 'tanh' [-1, 1] or 'sigmoid' [0, 1].
    model.output = "tanh"
    # 0: unconditional; otherwise labels 0..num_classes-1 are joined to the input of every layer of both networks.
    model.num_classes = 0
    # How maps change their size: 'strided' convolutions [P section 3], or 'pooling': convolutions of stride 1,
    # followed by max-pooling in D, and in G preceded by repeating pixels.
    model.resampling = "strided"
    # Multiplies the width of every layer; 1.0 is the published network. 0: 0.5 if the run starts on a CPU, 1.0 if
    # it starts on an accelerator. It keeps that wherever it is resumed.
    model.width = 1.0
    # Batch normalisation: 'paper' (every layer but G's output and D's input), 'all' or 'none'. [P section 3]
    model.norm = "paper"
    # [C lib/ops.py] adds 1e-8 to the variance. Gains and shifts can be left out, as in the authors' MNIST script.
    model.norm_epsilon = 1e-8
    model.norm_affine = True
    # Decay of the running averages that sampling uses. [C] has none: it samples with batch statistics.
    model.norm_momentum = 0.9
    # Statistics over the whole batch on all devices, so that results do not depend on the number of devices.
    model.cross_replica_norm = True

    model.generator = generator = ConfigDict()
    # (maps that enter, stride) of each transposed convolution; the last one makes the image. (): dense layers only.
    generator.stages = ((1024, 2), (512, 2), (256, 2), (128, 2))
    # Widths of dense layers between the noise and the projection to the first maps.
    generator.hidden = ()
    # After every layer but the last: 'relu' [P section 3], 'leaky_relu' or 'tanh'.
    generator.activation = "relu"
    # BN of the projection: per 'unit' (before the reshape, [C]) or per 'channel' (Torch, PyTorch ports).
    generator.projection_norm = "unit"

    model.discriminator = discriminator = ConfigDict()
    # (maps that leave, stride) of each convolution. (): dense layers only.
    discriminator.stages = ((128, 2), (256, 2), (512, 2), (1024, 2))
    # Widths of dense layers between the last maps and the logit.
    discriminator.hidden = ()
    # After every layer but the last: 'leaky_relu' with slope 0.2 [P section 3], 'relu' or 'tanh'.
    discriminator.activation = "leaky_relu"
    # 'dense': flatten, then one linear unit [P]; 'pool': global average pooling first, which the paper calls more
    # stable and slower to converge [P section 3].
    discriminator.head = "dense"
    # Dropout rate after every activation; the paper has none.
    discriminator.dropout = 0.0
    # Every kernel divided by its largest singular value [Miyato et al. 2018]; with it norm='none' is usual.
    discriminator.spectral_norm = False
    # The first n convolutions, with the gains and shifts behind them, are not updated; 0 [P]. For runs that start from
    # another one: "FreezeD", Mo, Cho and Shin 2020 (arXiv 2002.10964).
    discriminator.freeze = 0

    # --- Training step -------------------------------------------------------------------------------------------
    # 'non_saturating' [P, C], 'minimax', 'least_squares' or 'hinge'.
    config.loss = "non_saturating"
    # 'generator_first': G, then D, each on fresh noise [C]. 'discriminator_first': D, then G on the same fakes, as
    # most ports do; one generator pass cheaper.
    config.update_order = "generator_first"
    config.optimizer = optimizer = ConfigDict()
    # Adam [P section 4]. L2 is added to the gradient of every parameter before the moments [C lib/updates.py].
    optimizer.generator_learning_rate = 2e-4
    optimizer.discriminator_learning_rate = 2e-4
    optimizer.b1 = 0.5
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.l2 = 1e-5
    # Learning rates fall linearly to zero over decay_steps steps from step decay_begin on; decay_steps 0: constant.
    optimizer.decay_begin = 0
    optimizer.decay_steps = 0
    # Instead of these two: the last part of num_steps over which they fall to zero, 0.5 for the second half; 0: none.
    optimizer.decay_fraction = 0.0
    # Decay of the moving average of G's weights, which then draws the sample sheets; 0 is off.
    config.ema_decay = 0.0

    # What the discriminator sees of real and of generated images, in both players' updates: some of 'color',
    # 'translation' and 'cutout', in the order given, see nets/augment.py; () [P, C]. docs/own_images.md has
    # measured when it pays.
    config.augment = augment = ConfigDict()
    augment.operations = ()
    # With which each operation is applied to each image; with a target, its value at the start [Karras et al. 2020: 0].
    augment.probability = 1.0
    # 0: the probability is fixed. Otherwise it is adjusted every 4 steps so that the mean sign of the discriminator's
    # output on training images stays at this number, 0.6 in Karras et al. 2020 ("ADA"). Higher ones mean overfitting.
    augment.target = 0.0
    # Training images in which it can go from 0 to 1: 500,000 [Karras et al. 2020]. Runs of fewer images need less.
    augment.ramp_images = 500_000

    # Regularisers of the discriminator; the paper has none of them.
    config.regularizer = regularizer = ConfigDict()
    # Weight gamma of the penalty on D's gradient at real images, R1 [Mescheder et al. 2018: 10], and the steps between
    # two of its gradients, which are multiplied by as many [Karras et al. 2020: 16].
    regularizer.r1 = 0.0
    regularizer.r1_every = 16
    # One-sided label smoothing: by how much the target of real images is below 1 [Salimans et al. 2016: 0.1].
    regularizer.label_smoothing = 0.0
    # Standard deviation, for pixels in [-1, 1], of noise added to all that D sees; it falls linearly to 0 at num_steps
    # [Sonderby et al. 2017].
    regularizer.instance_noise = 0.0

    # --- Evaluation during training: numbers in metrics.jsonl, see docs/quality.md -------------------------------
    config.eval = evaluation = ConfigDict()
    # How many samples are drawn, from the same noise each time; how many images they are compared with, 0: all.
    evaluation.num_samples = 10_000
    evaluation.num_reference = 0
    # What is measured: 'nnd' [C], metrics/nearest.py; 'features', distances that need no download; 'inception', FID,
    # KID and Inception score, which need a file of weights and a GPU or patience.
    evaluation.metrics = ("nnd", "features")
    # Split, and source if it is not data.source, of held-out images: for 'nnd' (10,000 of them [C]), and to find
    # copies of training images. '' for both: there are none, and 'nnd' uses the training images.
    evaluation.split = ""
    evaluation.source = ""

    # --- Machine -------------------------------------------------------------------------------------------------
    # How the step is mapped over devices: 'shard_map' or 'pmap'. Same results.
    config.mapper = "shard_map"
    # Steps that one call of the compiled program makes: a GPU or TPU then never waits for Python. They divide all
    # intervals above. 0: as many as suit, 1 on the CPU.
    config.steps_per_call = 0
    # Formulation of the convolutions: 'auto' (the fastest for the platform), 'winograd', 'im2col' or 'lax'.
    config.conv = "auto"
    # Arithmetic inside the networks: 'float32' or 'bfloat16'. Parameters, statistics, losses and Adam are float32.
    # 'auto': 'bfloat16' on a CPU with AVX-512 BF16 or AMX, otherwise 'float32'; decided when a run starts, and kept.
    config.precision = "float32"
    # How exactly a GPU or TPU multiplies float32, in training and sampling: 'default' is TF32 (10 bits) on NVIDIA GPUs
    # since Ampere and one pass of bfloat16 (8 bits) on TPUs; 'high' three passes on TPUs; 'highest' float32
    # everywhere. CPUs always multiply in float32.
    config.matmul_precision = "default"
    # In what the gradients of several devices are averaged: 'float32', or 'bfloat16', half the bytes.
    config.reduce_precision = "float32"
    return config.lock()  # a field that is not here is a mistake
