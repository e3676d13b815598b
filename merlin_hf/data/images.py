"""Read images as they are stored, and bring them to the channels that a model takes without loss."""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import datasets
import numpy as np

from .media import MediaKind, UnreadableMediaError, check_not_empty


ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".tga", ".ico", ".pcx", ".dds"),
)
DEEPEST_12_BIT = 4095
FEW_GREYS = 16  # a data set of real numbers above 1 and below this is neither from 0 to 1 nor from 0 to 255

logger = logging.getLogger("merlin_hf.data")


# Modes


def mode_of(config: Any) -> str:
    """Return Pillow's mode for a model's number of channels: `"L"` for 1, `"RGB"` for 3; a ValueError for others."""
    channels = getattr(config, "num_channels", 3)
    if channels not in (1, 3):
        raise ValueError(
            f"The model takes images of {channels} channels (`num_channels`); images are given to models of 1 or 3."
        )
    return "L" if channels == 1 else "RGB"


def to_mode(image: Any, mode: str = "RGB") -> Any:
    """
    Return an image with 8 bits in each channel, in mode `"RGB"` or `"L"`, showing what it showed.

    - Greys of 16 bits are divided by 257. The scale is that of the format, not of the single image.
    - Real numbers from 0 to 1 are multiplied by 255; those from 0 to 255, and integers of 32 bits in this range, are
      rounded. A ValueError says that values are not finite, or in neither range.
    - Transparent parts are laid on white.
    - CMYK of a JPEG file is inverted where Adobe's marker says so. Lab is converted by its own colour profile.
    """
    from PIL import Image, ImageChops

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _from_sixteen_bits(image)
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    elif image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes all of them as Adobe's
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif image.mode == "La":  # grey times alpha; Pillow converts RGBa, but not this
        image = ImageChops.add(image.getchannel(0), ImageChops.invert(image.getchannel(1)))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    if image.mode == mode:
        return image
    return image.convert(mode) if image.mode in ("1", "L", "RGB") else image.convert("RGB").convert(mode)


def _from_sixteen_bits(image: Any) -> Any:
    from PIL import Image

    pixels = np.asarray(image)
    grey = Image.fromarray(_eight_of_sixteen_bits(pixels))
    if "transparency" not in image.info:
        return grey
    # One value of a PNG file's is transparent.
    visible = (pixels != image.info["transparency"]).astype(np.uint8) * 255
    grey.putalpha(Image.fromarray(visible))
    return grey


def _eight_of_sixteen_bits(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.int64) + 128) // 257).astype(np.uint8)


def _from_lab(image: Any) -> Any:
    try:
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImportError as error:
        raise ValueError("the image is in Lab, and this Pillow has no colour profiles; convert it to RGB") from error


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return real numbers, or integers of more than 16 bits, as `uint8`."""
    low, high = range_of(pixels)
    if high <= 1 and pixels.dtype.kind == "f":
        pixels = pixels * 255.0
    elif high > 255:
        raise ValueError(
            f"its values are from {low:g} to {high:g} ({pixels.dtype}), and the format does not say what is white. "
            "Save it with 8 or 16 bits, or as real numbers from 0 to 1"
        )
    return np.rint(pixels).astype(np.uint8)


def range_of(pixels: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest value; a ValueError if there is none, or one is negative or not finite."""
    if pixels.size == 0:
        raise ValueError("it has no pixels")
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("it has values that are not finite (NaN or infinity)")
    if low < 0:
        raise ValueError(f"it has values below 0 (from {low:g} to {high:g}), and nothing says what is black")
    return low, high


# Reading


def read_image(value: Any) -> Any:
    """
    Read an image of a file, of bytes as `datasets` stores them or of an array, in its own mode.

    Arrays are of shape `(height, width)`, `(height, width, channels)` or `(channels, height, width)`. Cameras' notes
    on which side is up are followed, as `datasets.Image` does. Of files with several images the first is read. Errors
    do not name the file; [`~merlin_hf.data.media.read_media`] does.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    if value is None:
        raise ValueError("there is no image in this row")
    if not isinstance(value, dict):
        return from_array(np.asarray(value))
    check_not_empty(value, "image")
    with _known_to_pillow():
        return datasets.Image().decode_example({"path": value.get("path"), "bytes": value.get("bytes")})


@contextmanager
def _known_to_pillow() -> Iterator[None]:
    from PIL import UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:  # whose message has the object that was opened
        raise ValueError("it is not an image that Pillow knows") from error


def glance_at_image(value: Any) -> Any:
    """Read the header of an image; read it whole where the header does not tell its range, or it is not a file."""
    from PIL import Image

    if not isinstance(value, dict) or (value.get("bytes") is None and not os.path.isfile(value.get("path") or "")):
        return read_image(value)
    check_not_empty(value, "image")
    content = value.get("bytes")
    with _known_to_pillow():
        image = Image.open(value["path"] if content is None else BytesIO(content))
    if image.mode[0] in "IF":
        return read_image(value)
    image.close()
    return image


def from_array(pixels: np.ndarray) -> Any:
    """
    Return an array as an image; a ValueError if it has another shape or type.

    It is of shape `(height, width)`, or has 1, 2 (with alpha), 3 or 4 (with alpha) channels last, or 1, 3 or 4
    channels first; bytes, integers of 16 bits, or values as [`to_mode`] takes them.
    """
    from PIL import Image

    shape = pixels.shape
    if pixels.ndim == 3 and shape[2] not in (1, 2, 3, 4) and shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"an array of shape {shape} is not an image of 1, 3 or 4 channels")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"an array of type {pixels.dtype} is not an image")
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    elif pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.uint16)
        if pixels.ndim == 3:
            pixels = _eight_of_sixteen_bits(pixels)
    elif pixels.dtype != np.uint8:
        kept = np.float32 if pixels.dtype.kind == "f" else np.int32
        pixels = pixels.astype(kept) if pixels.ndim == 2 else _to_bytes(pixels)
    return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class _Facts:
    """How a stored image is made: `high` is its largest value, where the header does not say what is white."""

    kind: str
    frames: int
    high: float


def _facts_of(image: Any) -> _Facts | None:
    # Other frames of JPEG files are previews, of icons sizes.
    frames = 1 if image.format in ("MPO", "JPEG", "ICO") else getattr(image, "n_frames", 1)
    if image.mode[0] in "IF":
        pixels = np.asarray(image)
        high = range_of(pixels)[1]
        if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
            return _Facts("16", frames, high)
        _to_bytes(pixels)  # refuses what has no range
        return _Facts("F" if image.mode == "F" else "I", frames, high)
    return _Facts("8", frames, 0) if frames > 1 else None


def _survey(where: str, found: list[tuple[str, _Facts]]) -> None:
    """Check that all images of a data set are read on one scale, and warn where parts are left out."""
    frames = [(name, facts.frames) for name, facts in found if facts.frames > 1]
    if frames:
        name, count = frames[0]
        logger.warning(
            f"{where}: {len(frames)} files have several images, such as {name} with {count}. The first of each is "
            "used; save the others as files of their own to use them."
        )
    deep = [facts.high for _, facts in found if facts.kind == "16"]
    if deep and max(deep) <= DEEPEST_12_BIT:
        logger.warning(
            f"{where}: the images of 16 bits have no value above {max(deep):g} of 65535, which leaves "
            f"{max(deep) / 257 + 1:.0f} of 256 greys. If they were made with fewer bits, multiply them so that white "
            "is 65535, or save them with 8 bits."
        )
    real = sorted(((facts.high, name) for name, facts in found if facts.kind == "F"), key=lambda pair: pair[0])
    if not real or real[-1][0] <= 1:
        return
    high, name = real[-1]
    low = next(((high, name) for high, name in real if 0 < high <= 1), None)
    if low is not None:
        raise UnreadableMediaError(
            f"{where}: the real numbers of {low[1]} go up to {low[0]:g}, those of {name} up to {high:g}, so that one "
            "is on a scale from 0 to 1 and the other from 0 to 255. Save all on one scale."
        )
    if high < FEW_GREYS:
        raise UnreadableMediaError(
            f"{where}: the real numbers of its images go up to {high:g} ({name}), which is a scale neither from 0 to "
            "1 nor from 0 to 255. Save them on one of these."
        )


def is_image(feature: Any) -> bool:
    """Return whether a column has images: `Image`, or arrays of bytes or other numbers with 1, 3 or 4 channels."""
    if isinstance(feature, datasets.Array3D):
        return any(feature.shape[place] in (1, 3, 4) for place in (0, 2))
    return isinstance(feature, datasets.Image)


IMAGES = MediaKind(
    name="image",
    plural="images",
    endings=ENDINGS,
    feature=datasets.Image,
    is_media=is_image,
    read=read_image,
    glance=glance_at_image,
    facts=_facts_of,
    survey=_survey,
)


# From images to what a model takes


@dataclass
class EncodeImages:
    """Make `pixel_values` of images in `mode`, see [`mode_of`]; cropped and flipped at random if asked for."""

    processor: Any
    mode: str = "RGB"
    random_resized_crop: bool = False
    horizontal_flip: bool = False

    def __call__(self, images: list) -> dict[str, Any]:
        """Return the processor's `pixel_values`."""
        images = [self.augment(to_mode(image, self.mode)) for image in images]
        return {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}

    def augment(self, image):
        """Return the image, perhaps cropped and flipped; the draws are of `random`, which Trainer seeds and saves."""
        if self.random_resized_crop:
            share = random.uniform(0.5, 1) ** 0.5
            width, height = (max(1, round(side * share)) for side in image.size)
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            image = image.crop((left, top, left + width, top + height))
        if self.horizontal_flip and random.random() < 0.5:
            from PIL import ImageOps

            image = ImageOps.mirror(image)
        return image
