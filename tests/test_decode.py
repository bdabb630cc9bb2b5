"""decode.to_pixels: every kind of image file, against pixel values worked out by hand."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_jax.datasets.decode import BadImage, Target, TooSmall, decode, to_pixels

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def left_right(left: tuple[int, ...], right: tuple[int, ...], mode: str = "RGB", side: int = 8) -> Image.Image:
    image = Image.new(mode, (side, side), left)
    image.paste(right, (side // 2, 0, side, side))
    return image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


def assert_left_right(pixels: np.ndarray, left: tuple[int, ...], right: tuple[int, ...], atol: int = 0) -> None:
    middle = pixels.shape[1] // 2
    np.testing.assert_allclose(pixels[:, :middle].astype(int), np.broadcast_to(left, (8, 4, 3)), atol=atol)
    np.testing.assert_allclose(pixels[:, middle:].astype(int), np.broadcast_to(right, (8, 4, 3)), atol=atol)


# --- Geometry --------------------------------------------------------------------------------------------------------


def numbered(width: int, height: int) -> np.ndarray:
    """Pixel (y, x) has red = y and green = x."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(x)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "crop_size", "top", "left"),
    [(13, 8, 0, 0, 2), (8, 13, 0, 2, 0), (12, 8, 0, 0, 2), (13, 12, 8, 2, 2), (8, 8, 8, 0, 0), (9, 11, 8, 1, 0)],
)
def test_centre_crop(width: int, height: int, crop_size: int, top: int, left: int) -> None:
    pixels = to_pixels(numbered(width, height), Target(8, crop_size=crop_size))
    np.testing.assert_array_equal(pixels, numbered(width, height)[top : top + 8, left : left + 8])


def test_resize_sees_nothing_outside_the_crop() -> None:
    image = np.full((40, 40, 3), 255, np.uint8)
    image[12:28, 12:28] = 0
    np.testing.assert_array_equal(to_pixels(image, Target(8, crop_size=16)), 0)


def test_reduction_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    # Any filter that drops pixels gives 0 or 255. Away from the borders the stripes cancel to their mean.
    np.testing.assert_allclose(to_pixels(stripes, Target(16))[:, 2:-2].astype(int), 127.5, atol=2)


def test_overshoot_is_clipped_and_does_not_wrap() -> None:
    step = left_right(BLACK, WHITE, side=50)
    pixels = to_pixels(np.asarray(step), Target(10)).astype(int)
    # Lanczos rings on both sides of a step. Wrapped, the ringing would be bright in the dark half and vice versa.
    assert pixels[:, :5].max() < 30
    assert pixels[:, 5:].min() > 225


def test_same_size_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(to_pixels(image, Target(16)), image)
    np.testing.assert_array_equal(to_pixels(encoded(Image.fromarray(image)), Target(16)), image)


def test_large_jpeg_is_the_same_picture_as_a_full_decode() -> None:
    y, x = np.mgrid[:600, :800]
    smooth = np.stack([255 * y / 599, 255 * x / 799, 127 + 60 * np.sin(x / 50)], axis=-1).round().astype(np.uint8)
    jpeg = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(jpeg)).crop((100, 0, 700, 600)).resize((32, 32), Image.Resampling.BOX))
    np.testing.assert_allclose(to_pixels(jpeg, Target(32)).astype(int), full.astype(int), atol=4)


def test_upsampling_only_on_request() -> None:
    small = np.full((4, 6, 3), 77, np.uint8)
    with pytest.raises(BadImage, match="is 6 x 4, smaller than 8"):
        to_pixels(small, Target(8))
    np.testing.assert_array_equal(to_pixels(small, Target(8, allow_upsampling=True)), np.full((8, 8, 3), 77))


def test_crop_must_fit_even_with_upsampling() -> None:
    with pytest.raises(BadImage, match="is 20 x 9, too small to cut out 10"):
        to_pixels(np.zeros((9, 20, 3), np.uint8), Target(8, crop_size=10, allow_upsampling=True))


# --- Other aspects ---------------------------------------------------------------------------------------------------

# Targets of 6 x 4 pixels, and of 8 x 8: 40 x 8 pixels, green in the first 10 columns, otherwise red.
WIDE = Target(4, image_width=6)
BANNER = Image.new("RGB", (40, 8), RED)
BANNER.paste(GREEN, (0, 0, 10, 8))


@pytest.mark.parametrize(
    ("width", "height", "top", "left"),
    [(6, 4, 0, 0), (9, 4, 0, 1), (6, 9, 2, 0), (7, 4, 0, 0)],
)
def test_crop_to_the_aspect_of_the_target(width: int, height: int, top: int, left: int) -> None:
    pixels = to_pixels(numbered(width, height), WIDE)
    np.testing.assert_array_equal(pixels, numbered(width, height)[top : top + 4, left : left + 6])


def test_crop_is_of_whole_pixels_and_then_resized() -> None:
    """5 x 6 / 4 = 7.5 columns of 13, of which 7 are taken, from column 3 on."""
    image = np.random.default_rng(0).integers(0, 256, (5, 13, 3), np.uint8)
    expected = Image.fromarray(image[:, 3:10]).resize((6, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(to_pixels(image, WIDE), np.asarray(expected))


def test_squeezed_everything_is_there() -> None:
    """A quarter of the columns is green; the centred crop has none of them."""
    pixels = to_pixels(np.asarray(BANNER), Target(8, fit="squeeze"))
    assert pixels.shape == (8, 8, 3)
    assert_left_is_green(pixels)
    assert (to_pixels(np.asarray(BANNER), Target(8)) == RED).all()


def assert_left_is_green(pixels: np.ndarray) -> None:
    """The first column, and from the fifth on all are red; Lanczos spreads the edge over those between."""
    np.testing.assert_allclose(pixels[:, 0].astype(int), np.broadcast_to(GREEN, pixels[:, 0].shape), atol=30)
    np.testing.assert_allclose(pixels[:, 4:].astype(int), np.broadcast_to(RED, pixels[:, 4:].shape), atol=30)


def test_squeezed_to_another_shape() -> None:
    pixels = to_pixels(np.full((9, 7, 3), 50, np.uint8), Target(4, image_width=6, fit="squeeze"))
    np.testing.assert_array_equal(pixels, np.full((4, 6, 3), 50))


@pytest.mark.parametrize(
    ("width", "height", "top", "left"),
    [(6, 2, 1, 0), (6, 1, 1, 0), (3, 4, 0, 1), (2, 4, 0, 2), (6, 4, 0, 0)],
)
def test_pad_lies_centred_on_black(width: int, height: int, top: int, left: int) -> None:
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)
    pixels = to_pixels(image, Target(4, image_width=6, fit="pad"))
    np.testing.assert_array_equal(pixels[top : top + height, left : left + width], image)
    assert np.count_nonzero(pixels) == image.size


def test_pad_shrinks_until_all_fits() -> None:
    """40 x 8 becomes 8 x 1.6, which is 2 rows; a line of 400 x 1 keeps a row."""
    pixels = to_pixels(np.asarray(BANNER), Target(8, fit="pad"))
    assert not pixels[[0, 1, 2, 5, 6, 7]].any()
    assert_left_is_green(pixels[3:5])
    line = to_pixels(np.full((1, 400, 3), 9, np.uint8), Target(8, channels=1, fit="pad"))
    assert line.shape == (8, 8, 1) and (line[3] == 9).all() and np.count_nonzero(line) == 8


@pytest.mark.parametrize(
    ("fit", "size", "enough"),
    [
        ("crop", (6, 4), True),
        ("crop", (5, 400), False),
        ("crop", (600, 3), False),
        ("squeeze", (5, 4), False),
        ("squeeze", (6, 3), False),
        ("pad", (1, 4), True),
        ("pad", (6, 1), True),
        ("pad", (5, 3), False),
    ],
)
def test_what_would_have_to_be_enlarged(fit: str, size: tuple[int, int], enough: bool) -> None:
    image = np.full((size[1], size[0], 3), 7, np.uint8)
    target = Target(4, image_width=6, fit=fit)
    if enough:
        assert to_pixels(image, target).shape == (4, 6, 3)
    else:
        with pytest.raises(TooSmall, match=f"is {size[0]} x {size[1]}, smaller than 6 x 4 pixels"):
            to_pixels(image, target)
    allowed = replace(target, allow_upsampling=True)
    assert to_pixels(image, allowed).shape == (4, 6, 3)


def test_a_picture_on_its_side_is_fitted_upright() -> None:
    image = numbered(4, 6)
    found = decode(encoded(Image.fromarray(image), exif=exif(6)), WIDE)
    np.testing.assert_array_equal(found.pixels, np.rot90(image, -1))  # clockwise
    assert found.aspect == 6 / 4


def test_a_jpeg_on_its_side_is_decoded_large_enough() -> None:
    """Upright it is 100 x 400. At half of that it would be too small for 64 columns."""
    jpeg = encoded(Image.new("RGB", (400, 100), RED), "JPEG", exif=exif(6))
    assert to_pixels(jpeg, Target(4, image_width=64)).shape == (4, 64, 3)


# --- Modes -----------------------------------------------------------------------------------------------------------


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    content = encoded(left_right(RED, BLUE))
    (tmp_path / "image").write_bytes(content)
    assert_left_right(to_pixels(content, Target(8)), RED, BLUE)
    assert_left_right(to_pixels(tmp_path / "image", Target(8)), RED, BLUE)


def test_colour_to_grey_is_luma() -> None:
    pixels = to_pixels(encoded(left_right(RED, BLUE)), Target(8, channels=1))
    assert pixels.shape == (8, 8, 1)
    assert pixels[0, 0, 0] == round(0.299 * 255)
    assert pixels[0, 7, 0] == round(0.114 * 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_is_kept_exactly_and_replicated(channels: int) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = to_pixels(encoded(Image.fromarray(ramp)), Target(16, channels=channels))
    np.testing.assert_array_equal(pixels, np.repeat(ramp[..., None], channels, axis=-1))


def test_one_bit() -> None:
    image = Image.new("1", (8, 8), 0)
    image.paste(1, (4, 0, 8, 8))
    assert_left_right(to_pixels(encoded(image), Target(8)), BLACK, WHITE)


def test_palette() -> None:
    assert_left_right(to_pixels(encoded(left_right(RED, BLUE).quantize(2)), Target(8)), RED, BLUE)


def test_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    assert_left_right(to_pixels(encoded(image, transparency=1), Target(8)), RED, WHITE)
    assert_left_right(to_pixels(encoded(image, "GIF", transparency=0), Target(8)), WHITE, BLUE)


def test_alpha_is_laid_on_white() -> None:
    # Half-transparent black on white is 255 * (1 - 128 / 255) = 127; what lies under alpha 0 does not matter.
    image = left_right((0, 0, 0, 128), (0, 255, 0, 0), "RGBA")
    assert_left_right(to_pixels(encoded(image), Target(8)), (127, 127, 127), WHITE)
    grey = left_right((0, 128), (50, 255), "LA")
    assert_left_right(to_pixels(encoded(grey), Target(8)), (127, 127, 127), (50, 50, 50))


def test_transparent_colour_of_a_true_colour_png() -> None:
    image = encoded(left_right(RED, BLUE), transparency=BLUE)
    assert_left_right(to_pixels(image, Target(8)), RED, WHITE)


def test_cmyk() -> None:
    # Red is full magenta and yellow ink; blue is full cyan and magenta.
    image = left_right((0, 255, 255, 0), (255, 255, 0, 0), "CMYK")
    assert_left_right(to_pixels(encoded(image, "TIFF"), Target(8)), RED, BLUE)
    jpeg = encoded(left_right((0, 255, 255, 0), (255, 255, 0, 0), "CMYK", 64), "JPEG", quality=95)
    assert_left_right(to_pixels(jpeg, Target(8)), RED, BLUE, atol=20)
    assert to_pixels(encoded(image, "TIFF"), Target(8, channels=1))[0, 0, 0] == 76


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(format: str) -> None:
    values = np.array([0, 128, 129, 257, 514, 32768, 65406, 65407, 65535], np.uint16)
    image = np.broadcast_to(values, (9, 9)).copy()
    pixels = to_pixels(encoded(Image.fromarray(image), format), Target(9, channels=1))
    # v / 257, rounded: 128 is 0.498, 129 is 0.502; 65406 is 254.498, 65407 is 254.502.
    np.testing.assert_array_equal(pixels[4, :, 0], [0, 0, 1, 1, 2, 128, 254, 255, 255])


def test_thirty_two_bit_grey_within_sixteen_bits_is_scaled_and_beyond_is_bad() -> None:
    values = np.full((8, 8), 257 * 200, np.int32)
    np.testing.assert_array_equal(to_pixels(encoded(Image.fromarray(values), "TIFF"), Target(8)), 200)
    values[3, 3] = 70_000
    with pytest.raises(BadImage, match=r"outside 0\.\.65535"):
        to_pixels(encoded(Image.fromarray(values), "TIFF"), Target(8))


def test_floating_point_is_bad() -> None:
    image = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    with pytest.raises(BadImage, match="floating-point"):
        to_pixels(encoded(image, "TIFF"), Target(8))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    frames = [left_right(RED, BLUE), left_right(BLACK, WHITE), left_right(GREEN, RED)]
    animation = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert_left_right(to_pixels(animation, Target(8)), RED, BLUE)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        # Colours of the stored top left, top right, bottom left, bottom right: red, green, blue, white.
        (1, (RED, GREEN, BLUE, WHITE)),
        (3, (WHITE, BLUE, GREEN, RED)),  # half a turn
        (6, (BLUE, RED, WHITE, GREEN)),  # to be turned clockwise: the stored left column becomes the top row
        (8, (GREEN, WHITE, RED, BLUE)),  # counter-clockwise
    ],
)
def test_exif_orientation(orientation: int, corners: tuple[tuple[int, int, int], ...]) -> None:
    image = left_right(RED, GREEN)
    image.paste(left_right(BLUE, WHITE).crop((0, 4, 8, 8)), (0, 4))
    pixels = to_pixels(encoded(image, exif=exif(orientation)), Target(8))
    assert tuple(tuple(int(v) for v in pixels[y, x]) for y in (1, 6) for x in (1, 6)) == corners


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image() -> None:
    image = encoded(left_right(RED, BLUE, side=64), "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert to_pixels(image, Target(8)).shape == (8, 8, 3)


# --- Bad images ------------------------------------------------------------------------------------------------------


def photo(format: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(noise), format)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated_is_bad(format: str) -> None:
    content = photo(format)
    assert to_pixels(content, Target(8)).shape == (8, 8, 3)
    with pytest.raises(BadImage):
        to_pixels(content[: len(content) // 2], Target(8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html>404 Not Found</html>", "not in an image format"),
        (png_header(60_000, 60_000), "DecompressionBomb"),
        (png_header(64, 64), "cannot be decoded"),
        (encoded(Image.new("RGB", (1, 1))), "is 1 x 1, smaller than 8"),
    ],
    ids=["empty", "text", "bomb", "no pixels", "tiny"],
)
def test_unusable_is_bad(content: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        to_pixels(content, Target(8))


def test_missing_file_is_bad(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="No such file"):
        to_pixels(tmp_path / "gone.png", Target(8))
