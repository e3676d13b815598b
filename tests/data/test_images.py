"""Images of all modes and files, beside the pixels that they show."""

import io
import logging
import random

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageCms
from transformers import ViTConfig, ViTImageProcessorPil

from merlin_hf.comparison.config import TargetConfig
from merlin_hf.data import media
from merlin_hf.data.encoding import ImageEncoder, by_processor, encode_media, resize_and_scale
from merlin_hf.data.images import IMAGES, EncodeImages, from_array, mode_of, read_image, to_mode
from merlin_hf.data.rows import load_rows
from merlin_hf.data.tasks import load_task
from merlin_hf.scripts.data_arguments import ImageDataArguments


GREY = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)  # every value below 240
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
GREY_OF = {"RGB": np.stack([GREY] * 3, -1), "L": GREY}


def stored(image, ending="png", **options):
    """The image as `datasets` stores it."""
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[f".{ending}"], **options)
    return {"bytes": content.getvalue(), "path": f"x.{ending}"}


def shown(value, mode="RGB"):
    return np.asarray(to_mode(read_image(value), mode))


SIXTEEN = GREY.astype(np.uint16) * 257
NOISE = np.random.default_rng(0).integers(0, 128, (12, 20)).astype(np.uint16)
GREYS = {
    "8 bits": stored(Image.fromarray(GREY)),
    "16 bits": stored(Image.fromarray(SIXTEEN)),
    "16 bits, little endian": stored(Image.fromarray(SIXTEEN), "tif"),
    "16 bits, big endian": stored(Image.fromarray(SIXTEEN.astype(">u2")), "tif"),
    "16 bits of a pgm file": stored(Image.fromarray(SIXTEEN), "pgm"),
    "16 bits with noise below 8": Image.fromarray(SIXTEEN + NOISE),
    "32 bits": stored(Image.fromarray(GREY.astype(np.int32)), "tif"),
    "real, from 0 to 1": stored(Image.fromarray(GREY.astype(np.float32) / 255), "tif"),
    "real, from 0 to 255": stored(Image.fromarray(GREY.astype(np.float32)), "tif"),
    "with alpha": stored(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (20, 12), 255)])),
    "times alpha": Image.frombytes("La", (20, 12), np.stack([GREY, np.full_like(GREY, 255)], -1).tobytes()),
    "a palette": stored(Image.fromarray(GREY).convert("P")),
    "an array": GREY,
    "an array with one channel first": GREY[None],
    "an array with one channel last": GREY[..., None],
    "an array of 16 bits": SIXTEEN,
    "an array of real numbers": GREY / 255,
    "a tensor": torch.from_numpy(GREY),
    "lists": GREY.tolist(),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", GREYS)
def test_greys_are_the_same_in_every_form(kind, mode):
    np.testing.assert_array_equal(shown(GREYS[kind], mode), GREY_OF[mode])


RGB = Image.fromarray(COLOUR)
LAB = ImageCms.profileToProfile(RGB, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
CMYK = ImageChops.invert(Image.merge("CMYK", [*RGB.split(), Image.new("L", RGB.size, 255)]))
COLOURS = {
    "RGB": (stored(RGB), 0),
    "opaque RGBA": (stored(RGB.convert("RGBA")), 0),
    "RGBA times alpha": (RGB.convert("RGBA").convert("RGBa"), 0),
    "CMYK": (stored(CMYK, "tif"), 0),
    "CMYK of Adobe's": (stored(CMYK, "jpg", quality=100, subsampling=0), 8),
    "YCbCr": (RGB.convert("YCbCr"), 3),
    "HSV": (RGB.convert("HSV"), 8),
    "Lab": (stored(LAB, "tif"), 22),
    "a palette": (stored(RGB.quantize(256)), 30),
    "an array": (COLOUR, 0),
    "channels first": (COLOUR.transpose(2, 0, 1), 0),
    "real numbers": (COLOUR / 255, 0),
    "16 bits": (COLOUR.astype(np.uint16) * 257, 0),
    "lists": (COLOUR.tolist(), 0),
    "JPEG": (stored(RGB, "jpg", quality=100, subsampling=0), 8),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_are_the_same_in_every_form(kind):
    value, tolerance = COLOURS[kind]
    np.testing.assert_allclose(shown(value).astype(int), COLOUR.astype(int), atol=tolerance, rtol=0)
    grey = np.asarray(Image.fromarray(shown(value)).convert("L"))
    np.testing.assert_array_equal(shown(value, "L"), grey)


def test_cmyk_without_adobes_marker_is_not_inverted():
    value = stored(CMYK, "jpg", quality=100, subsampling=0)
    content = value["bytes"]
    place = content.index(b"\xff\xee")
    length = int.from_bytes(content[place + 2 : place + 4], "big")
    value["bytes"] = content[:place] + content[place + 2 + length :]
    inverted = shown({"bytes": stored(ImageChops.invert(CMYK), "jpg", quality=100)["bytes"], "path": None})
    np.testing.assert_allclose(shown(value).astype(int), inverted.astype(int), atol=8, rtol=0)


ALPHA = Image.fromarray(np.where(np.arange(20) < 10, 0, 255).astype(np.uint8)[None].repeat(12, 0))


def with_transparency(kind):
    """Images whose left half is transparent over colours that nobody sees."""
    grey = Image.fromarray(GREY)
    if kind in ("RGBA", "RGBa"):
        return Image.merge("RGBA", [*RGB.split(), ALPHA]).convert(kind)
    if kind in ("LA", "La"):
        image = Image.merge("LA", [grey, ALPHA])
        return image if kind == "LA" else image.convert("La")
    if kind == "PA":
        image = grey.convert("P").convert("PA")
        image.putalpha(ALPHA)
        return image
    if kind == "P":
        image = Image.new("P", (20, 12), 7)
        image.putpalette([*range(256)] * 3)
        image.paste(9, (10, 0, 20, 12))
        image.info["transparency"] = 7
        return stored(image, transparency=7)
    pixels = np.where(np.asarray(ALPHA) == 0, 100, GREY // 2 * 2 + 1).astype(np.uint8)
    if kind == "16 bits":
        return stored(Image.fromarray(pixels.astype(np.uint16) * 257), transparency=100 * 257)
    image = Image.fromarray(pixels).convert(kind)
    return stored(image, transparency=100 if kind == "L" else (100, 100, 100))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["RGBA", "RGBa", "LA", "La", "PA", "P", "L", "RGB", "16 bits"])
def test_what_is_transparent_is_white_and_the_rest_is_as_it_was(kind, mode):
    pixels = shown(with_transparency(kind), mode)
    assert (pixels[:, :10] == 255).all() and (pixels[:, 10:] != 255).all()
    if kind in ("RGBA", "RGBa"):
        np.testing.assert_array_equal(pixels[:, 10:], np.asarray(RGB.convert(mode))[:, 10:])


def test_half_transparent_is_half_white():
    image = Image.new("RGBA", (2, 2), (100, 0, 200, 128))
    assert to_mode(image).getpixel((0, 0)) == (177, 127, 227)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.int32) * 100, "from 0 to 23900 .*does not say what is white"),
        (GREY.astype(np.float32) * 2, "from 0 to 478"),
        (GREY.astype(np.float32) - 1, "below 0"),
        (np.full((3, 3), np.nan, np.float32), "not finite"),
        (np.array([[0, np.inf]], np.float32), "not finite"),
        (COLOUR[..., :2].repeat(3, -1), "not an image of 1, 3 or 4 channels"),
        (np.array([["a"]]), "array of type"),
    ],
)
def test_what_has_no_scale_is_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        to_mode(from_array(pixels))


def test_cameras_notes_on_which_side_is_up_are_followed_as_by_datasets():
    exif = Image.Exif()
    exif[274] = 6  # turn by a quarter
    value = stored(RGB, "jpg", exif=exif, quality=100, subsampling=0)
    assert read_image(value).size == (12, 20)
    np.testing.assert_array_equal(shown(value), np.asarray(datasets.Image().decode_example(value)))


def test_all_that_makes_pixels_makes_the_same():
    """Training, evaluation and comparisons, of one model."""
    processor = ViTImageProcessorPil(size={"height": 12, "width": 20}, do_rescale=False, do_normalize=False)
    for channels, mode in ((3, "RGB"), (1, "L")):
        config = ViTConfig(num_channels=channels)
        assert mode_of(config) == mode
        images = [read_image(value) for value in (GREYS["16 bits"], GREYS["with alpha"], stored(RGB))]
        trained = EncodeImages(processor, mode)(images)["pixel_values"].numpy()
        np.testing.assert_array_equal(by_processor(processor, config)(images), trained)
        scaled = resize_and_scale((12, 20), channels)(images)
        np.testing.assert_allclose(scaled, trained / 127.5 - 1, atol=1e-6)
        assert trained.shape == (3, channels, 12, 20) and len(np.unique(trained[0])) == 240
    with pytest.raises(ValueError, match="5 channels"):
        mode_of(ViTConfig(num_channels=5))


# What is checked before the first step


def checked(values, where="`train_dir`"):
    rows = datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": datasets.Image()}))
    media.check_media(rows.cast_column("image", datasets.Image(decode=False)), "image", IMAGES, where)


WHOLE = stored(Image.fromarray(COLOUR.repeat(20, 0).repeat(20, 1)))
DAMAGED = {
    "half": (WHOLE["bytes"][: len(WHOLE["bytes"]) // 2], ""),
    "empty": (b"", "the file is empty"),
    "text": (b"<html>404 Not Found</html>", "not an image that Pillow knows"),
    "one byte": (b"\x89", "not an image that Pillow knows"),
    "a flipped byte": (WHOLE["bytes"][:200] + bytes([WHOLE["bytes"][200] ^ 255]) + WHOLE["bytes"][201:], ""),
}


@pytest.mark.parametrize("many", [False, True], ids=["in full", "by headers"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_what_cannot_be_read_is_named(kind, many, tmp_path, monkeypatch):
    content, reason = DAMAGED[kind]
    if many:
        monkeypatch.setattr(media, "CHECKED_ROWS", 1)
    (tmp_path / "x.png").write_bytes(content)
    (tmp_path / "whole.png").write_bytes(WHOLE["bytes"])
    values = [str(tmp_path / "whole.png"), str(tmp_path / "x.png")]
    if many and kind in ("half", "a flipped byte"):
        checked(values)  # the header is whole: the fault is found where the row is read
    else:
        with pytest.raises(media.UnreadableMediaError, match=f"`train_dir`: 1 of 2 images .*x.png.*{reason}"):
            checked(values)
    with pytest.raises(media.UnreadableMediaError, match=rf"`train_dir`: \S*x.png cannot be read: .*{reason}"):
        media.read_media(IMAGES, {"path": values[1], "bytes": None}, "`train_dir`", 1)


def test_rows_of_tables_are_named_by_their_number_and_many_faults_are_counted():
    values = [WHOLE, *[{"bytes": b"no", "path": f"{number}.png"} for number in range(7)]]
    with pytest.raises(media.UnreadableMediaError, match=r"7 of 8 images .*row 1 \(0.png\) .* and 4 more"):
        checked(values)
    with pytest.raises(media.UnreadableMediaError, match="1 of 2 images .*row 1 .*no image in this row"):
        checked([WHOLE, None])


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(media.UnreadableMediaError, match="decompression bomb"):
        checked([WHOLE])


def test_real_numbers_of_a_data_set_are_on_one_scale():
    one, other = (stored(Image.fromarray(GREY.astype(np.float32) / scale), "tif") for scale in (255, 1))
    black = stored(Image.fromarray(np.zeros((3, 3), np.float32)), "tif")
    checked([one, one, black])
    checked([other, black])
    with pytest.raises(media.UnreadableMediaError, match="row 0 .*up to 0.937.*row 1 .*up to 239"):
        checked([one, other])
    with pytest.raises(media.UnreadableMediaError, match="up to 1.02.*neither"):
        checked([stored(Image.fromarray(GREY.astype(np.float32) / 234), "tif")])
    with pytest.raises(media.UnreadableMediaError, match="1 of 2 images .*row 1.* 23900"):
        checked([one, stored(Image.fromarray(GREY.astype(np.int32) * 100), "tif")])


def test_what_is_left_out_is_said(caplog):
    frames = stored(RGB, "gif", save_all=True, append_images=[RGB.rotate(180)])
    checked([frames, stored(RGB)])
    assert "`train_dir`: 1 files have several images, such as row 0 (x.gif) with 2" in caplog.text
    caplog.clear()
    checked([stored(Image.fromarray(GREY.astype(np.uint16) * 16))])
    assert "no value above 3824 of 65535, which leaves 16 of 256 greys" in caplog.text
    caplog.clear()
    checked([stored(Image.fromarray(SIXTEEN)), stored(RGB)])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damaged", [False, True])
def test_comparisons_read_what_training_reads(damaged, tmp_path):
    """Folders with greys of 16 bits, one of them nested, one file perhaps damaged."""
    for name, place in (("dark", "dark/1/a.png"), ("bright", "bright/a.png"), ("bright", "bright/b.png")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SIXTEEN // (2 if name == "dark" else 1)).save(tmp_path / place)
    section = TargetConfig(str(tmp_path))
    args = ImageDataArguments(train_dir=str(tmp_path), train_val_split=0.0)
    processor = ViTImageProcessorPil(size={"height": 12, "width": 20})
    encode = EncodeImages(processor)
    if damaged:
        (tmp_path / place).write_bytes(WHOLE["bytes"][:300])
        for call in (
            lambda: load_rows(section, "target", "train_split"),
            lambda: encode_media(load_task(args.spec()), "train", encode),
        ):
            with pytest.raises(
                ValueError, match=r"(`target.path=.*`, split 'train'|`train_dir=.*`): 1 of 3 images .*bright/b.png"
            ):
                call()
        return
    rows = load_rows(section, "target", "train_split")
    compared = ImageEncoder(by_processor(processor, ViTConfig()))(rows)
    trained = encode_media(load_task(args.spec()), "train", encode)
    for one, other in zip(compared, trained, strict=True):
        np.testing.assert_array_equal(one["pixel_values"], other["pixel_values"])
        assert one["labels"] == other["labels"]
    assert rows.task.labels.names == ["bright", "dark"] and len(np.unique(compared[0]["pixel_values"])) == 240


# Augmentation


def test_augmentation_keeps_most_of_an_image_and_flips_half():
    image = Image.fromarray(np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) % 256).convert("RGB")
    random.seed(0)
    encode = EncodeImages(None, random_resized_crop=True)
    sizes = {encode.augment(image).size for _ in range(50)}
    assert len(sizes) > 5 and min(width * height for width, height in sizes) >= 0.47 * 600
    flipped = EncodeImages(None, horizontal_flip=True)
    corners = [flipped.augment(image).getpixel((0, 0))[0] for _ in range(50)]
    assert set(corners) == {0, 29} and 10 < corners.count(29) < 40
    assert EncodeImages(None).augment(image) is image
