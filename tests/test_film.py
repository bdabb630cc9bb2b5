"""Films: what a decoder finds in them."""

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.machine.errors import UserError
from dcgan_jax.reports import film


def colours(count: int, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """Frames of one colour each, no two alike; uint8 [count, height, width, channels]."""
    levels = np.random.default_rng(0).permutation(np.linspace(10, 240, count * channels).astype(np.uint8))
    return np.broadcast_to(levels.reshape(count, 1, 1, channels), (count, height, width, channels)).copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["gif", "webp"])
def test_an_animation_holds_the_frames(format: str, channels: int) -> None:
    """At 12 frames per second: 12 frames last 1 s, whatever a single one is rounded to. It repeats without end."""
    frames = colours(12, channels=channels)
    milliseconds = []
    with Image.open(io.BytesIO(film.encode(frames, format, 12.0))) as opened:
        animation: Any = opened
        assert (animation.format, animation.n_frames, animation.size) == (format.upper(), 12, (8, 8))
        assert animation.info["loop"] == 0
        for i, frame in enumerate(frames):
            animation.seek(i)
            shown = np.asarray(animation.convert("RGB"), int)
            milliseconds.append(animation.info["duration"])
            assert np.abs(shown.mean((0, 1)) - frame[0, 0]).max() <= 3
    assert sum(milliseconds) == 1000
    assert set(milliseconds) <= ({80, 90} if format == "gif" else {83, 84})


@pytest.mark.parametrize("encoder", film._ENCODERS)
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (512, 512)),  # 64 times
        ((200, 171), (600, 514)),  # three times, and a column to make it even
        ((601, 333), (602, 334)),
    ],
)
def test_an_mp4_holds_the_frames(
    encoder: str, size: tuple[int, int], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded again: their number, size and times, and the colour of each."""
    av = pytest.importorskip("av")
    if encoder not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {encoder}")
    monkeypatch.setattr(film, "_ENCODERS", (encoder,))
    frames = colours(10, *size)
    content = film.encode(frames, "mp4", 12.5)
    with av.open(io.BytesIO(content)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == ("mpeg4" if encoder == "mpeg4" else "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 12.5
        decoded = list(container.decode(stream))
    assert [frame.time for frame in decoded] == pytest.approx([i * 0.08 for i in range(10)])
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    assert shown.shape == (10, *expected, 3)
    assert np.abs(shown.mean((1, 2)) - frames[:, 0, 0]).max() <= (12 if encoder == "mpeg4" else 4)


def test_an_mp4_is_enlarged_by_whole_pixels() -> None:
    """A grey frame of 3 x 2 pixels; 171 times is the least that reaches 512."""
    frame = np.array([[0, 50], [100, 150], [200, 250]], np.uint8).reshape(1, 3, 2, 1)
    (enlarged,) = film._for_video(frame)
    assert enlarged.shape == (514, 342, 3)
    np.testing.assert_array_equal(enlarged[:513:171, ::171, 0], frame[0, ..., 0])
    np.testing.assert_array_equal(enlarged[170:513:171, 170::171, 2], frame[0, ..., 0])
    np.testing.assert_array_equal(enlarged[513], enlarged[512])


def test_films_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = colours(2)
    with pytest.raises(UserError, match="cannot have the format 'avi': choose from gif, webp, mp4"):
        film.encode(frames, "avi", 10)
    for format, fps, most in (("gif", 51.0, 50), ("webp", 61.0, 60), ("mp4", 0.0, 60), ("gif", float("nan"), 50)):
        with pytest.raises(UserError, match=rf"a {format} film cannot have .*choose 0.1 to {most}\."):
            film.check(format, fps)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"MP4 films need PyAV, the extra 'film': pip install av"):
        film.encode(frames, "mp4", 10)
    assert film.encode(frames, "gif", 10)


def test_length_by_hand() -> None:
    assert film.count_frames(6, 25) == 150
    assert film.count_frames(0.5, 12.5) == 6
    assert film.count_frames(10_000, 1) == 10_000
    for seconds, fps, count in ((0.1, 12.5, "1"), (0.0, 10, "0"), (10_001, 1, "10,001")):
        with pytest.raises(UserError, match=f"are {count} frames: choose from 2 to 10,000"):
            film.count_frames(seconds, fps)
