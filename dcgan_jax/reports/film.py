"""Films: frames of one size as an animated GIF or WebP, or as an MP4 that browsers and phones play."""

import importlib.util
import io
from fractions import Fraction

import numpy as np
from PIL import Image

from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports.image_grid import as_pillow

FORMATS = ("gif", "webp", "mp4")
# A GIF counts in hundredths of a second, and browsers slow down frames that last less than two of them.
_MOST_FPS = {"gif": 50.0, "webp": 60.0, "mp4": 60.0}
LEAST_FPS = 0.1
MOST_FRAMES = 10_000
# Encoders of MP4 from the best; the first two write H.264. A build of FFmpeg may lack any.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
# The longer side of an MP4, at least: players blur what they enlarge, and colours are kept for every other pixel only.
_SMALLEST = 512
_BITS_PER_PIXEL = 0.5  # of encoders that are not told a quality
_SMPTE_170M, _LIMITED_RANGE = 6, 1  # ITU-T H.273: how FFmpeg turns RGB into YUV unless told otherwise


def check(format: str, fps: float) -> None:
    """Raises UserError if no film of this format and speed can be written here; before its frames are drawn."""
    if format not in FORMATS:
        raise UserError(f"a film cannot have the format {format!r}: choose from {', '.join(FORMATS)}.")
    if not LEAST_FPS <= fps <= _MOST_FPS[format]:
        raise UserError(
            f"a {format} film cannot have {fps:g} frames per second: choose {LEAST_FPS:g} to {_MOST_FPS[format]:g}."
        )
    if format == "mp4" and importlib.util.find_spec("av") is None:
        raise UserError("MP4 films need PyAV, the extra 'film': pip install av; or choose the format gif or webp.")


def count_frames(seconds: float, fps: float) -> int:
    """How many frames a film of this length has: seconds * fps, rounded.

    Raises:
      UserError: these are fewer than two, or more than 10,000.
    """
    if not 2 <= (frames := round(seconds * fps)) <= MOST_FRAMES:
        raise UserError(
            f"{seconds:g} seconds at {fps:g} frames per second are {frames:,} frames: choose from 2 to {MOST_FRAMES:,}."
        )
    return frames


def encode(frames: np.ndarray, format: str, fps: float) -> bytes:
    """The content of a film's file. GIF and WebP repeat without end.

    Args:
      frames: uint8 [frames, height, width, 1 or 3].
      format: 'gif', 'webp', or 'mp4', which is enlarged by whole pixels to 512 on the longer side at least.
      fps: frames per second, 0.1 to 60, of a GIF to 50.

    Raises:
      UserError: see `check`.
    """
    check(format, fps)
    return _mp4(frames, fps) if format == "mp4" else _animation(frames, format, fps)


def _animation(frames: np.ndarray, format: str, fps: float) -> bytes:
    unit = 10 if format == "gif" else 1  # milliseconds
    ends = np.round(np.arange(len(frames) + 1) * 1000 / (fps * unit)).astype(int) * unit
    pictures = [Image.fromarray(as_pillow(frame)) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format, save_all=True, append_images=pictures[1:], duration=np.diff(ends).tolist(), loop=0)
    return buffer.getvalue()


def _mp4(frames: np.ndarray, fps: float) -> bytes:
    import av  # PyAV; `check` has looked for it

    frames = _for_video(frames)
    height, width = frames.shape[1:3]
    encoder = next(name for name in _ENCODERS if name in av.codecs_available)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _SMPTE_170M, _LIMITED_RANGE
        if encoder == "libx264":
            stream.options = {"crf": "18"}  # hardly told from the original
        else:
            stream.bit_rate = int(_BITS_PER_PIXEL * height * width * fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _for_video(frames: np.ndarray) -> np.ndarray:
    """RGB frames of an even height and width, 512 on the longer side at least."""
    scale = max(1, -(-_SMALLEST // max(frames.shape[1:3])))
    enlarged = frames.repeat(scale, 1).repeat(scale, 2).repeat(3 // frames.shape[3], 3)
    height, width = enlarged.shape[1:3]
    return np.pad(enlarged, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
