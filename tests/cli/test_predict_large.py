"""Large images: read in pieces, predicted in windows, written in strips; the same numbers in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from dualteacher import load
from dualteacher.data.channels import Channels
from dualteacher.data.formats import tiff
from dualteacher.data.formats.images import Unreadable, read_image
from dualteacher.inference.predictor import Predictor, to_tensor
from dualteacher.models import saved
from dualteacher.prediction import tiff_writer
from dualteacher.settings import Inference
from dualteacher.system.errors import UserError

from .conftest import COLORS, picture, pixels, predict, read, save_network

GEOREFERENCE = {
    33550: (12, (0.5, 0.5, 0.0)),
    33922: (12, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0)),
    34735: (3, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32631)),
    34737: (2, "WGS 84 / UTM zone 31N|"),
}
EXTRA = [(tag, kind, len(value), value, True) for tag, (kind, value) in GEOREFERENCE.items()]


def save(path: Path, kind: str) -> None:
    """An image of 75 by 50 pixels, stored in one of the ways that are about."""
    image = pixels(75, 50)
    if kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "raw"):
        Image.fromarray(image).save(path, compression=kind, tiffinfo={278: 8})
    elif kind == "grey":
        Image.fromarray(image[..., 0]).save(path, compression="tiff_lzw")
    elif kind == "palette":
        Image.fromarray(image).quantize(16).save(path)
    elif kind == "16 bits":
        tifffile.imwrite(path, image.astype(np.uint16) * 250, rowsperstrip=9)
    elif kind == "alpha":
        tifffile.imwrite(path, np.dstack([image, image[..., :1]]), photometric="rgb", extrasamples=["unassalpha"])
    else:
        options = {
            "one strip": {"rowsperstrip": 75},
            "tiles": {"tile": (32, 16)},
            "deflated tiles": {"tile": (32, 16), "compression": "zlib", "predictor": 2},
            "big endian": {"byteorder": ">", "rowsperstrip": 7},
            "BigTIFF": {"bigtiff": True, "tile": (16, 16)},
            "planes": {"planarconfig": "separate", "rowsperstrip": 10},
        }[kind]
        data = image.transpose(2, 0, 1) if kind == "planes" else image
        tifffile.imwrite(path, data, photometric="rgb", **options)


KINDS = [
    "tiff_lzw",
    "tiff_adobe_deflate",
    "jpeg",
    "packbits",
    "raw",
    "grey",
    "palette",
    "16 bits",
    "alpha",
    "one strip",
]
KINDS += ["tiles", "deflated tiles", "big endian", "BigTIFF", "planes"]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "PIECE", 1000)
    path = tmp_path / "image.tif"
    save(path, kind)
    page = tiff.open_page(path)
    assert page is not None and (page.height, page.width) == (75, 50)
    got = np.concatenate([page.rows(0, 30), page.rows(11, 41)[19:], page.rows(41, 42), page.rows(42, 75)])
    assert (got == read_image(path.read_bytes()).pixels).all()
    image = pixels(75, 50)
    if kind in ("jpeg", "palette"):
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
    elif kind == "grey":
        image = np.repeat(image[..., :1], 3, axis=2)
    elif kind == "16 bits":
        image = (image.astype(np.uint16) * 250 >> 8).astype(np.uint8)
    assert np.abs(got.astype(int) - image).max() <= (1 if kind == "jpeg" else 0)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    save(path, "tiles")
    data = path.read_bytes()
    for cut in (*range(0, 400, 7), len(data) - 3000):
        path.write_bytes(data[:cut])
        with pytest.raises(Unreadable):
            page = tiff.open_page(path)
            if page is None:
                raise Unreadable("no TIFF")
            page.rows(0, 75)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_masks_are_written_in_strips(order: str, big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_writer, "STRIP", 500)
    if big:
        monkeypatch.setattr(tiff_writer, "CLASSIC_LIMIT", 0)
    mask = np.random.default_rng(0).integers(0, 3, (101, 50), dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = COLORS
    with tiff_writer.Writer(tmp_path / "mask.tif", mask.shape, order, [], palette) as writer:
        for top in range(0, 101, 7):
            writer.write(mask[top : top + 7])
    if order == "<" or not big:  # Pillow does not know the other kind
        with Image.open(tmp_path / "mask.tif") as opened:
            assert (np.asarray(opened) == mask).all()
            assert (opened.getpalette() or [])[:9] == [value for color in COLORS for value in color]
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        assert file.is_bigtiff == big and file.byteorder == order
        assert (file.asarray() == mask).all() and len(file.pages[0].dataoffsets) == 11


@pytest.mark.parametrize("size", [(288, 192), (96, 320), (96, 96)])
@pytest.mark.parametrize("stride", [64, 40])
def test_windows_give_the_predictors_labels(size: tuple[int, int], stride: int, run_folder: Path) -> None:
    """One row of windows at a time, against all of them on full-size logits."""
    save_network(f"{run_folder}/student.safetensors", mode="slide", window=96, stride=stride)
    image = picture("a.tif", *size[::-1], compression="tiff_lzw", tiffinfo={278: 16})
    predict("a.tif", "--output", "out", "--large", "0.001", "--confidence")
    model, description = saved.load(run_folder / "student.safetensors")
    predictor = Predictor(model, Inference.model_validate(description["inference"]))
    sure, label = predictor.probabilities(to_tensor([image], torch.device("cpu"))).max(1)
    assert len(label.unique()) > 1, "a test that could not fail"
    assert (read("out/masks/a.tif") == label[0].numpy()).all()
    assert np.abs(read("out/confidence/a.tif") - 255 * sure[0].numpy()).max() < 0.51
    with Image.open("out/masks/a.tif") as mask, Image.open("out/overlays/a.jpg") as overlay:
        assert mask.mode == "P" and overlay.size == size[::-1]


def test_several_views_of_windows_and_sides_shorter_than_a_window(run_folder: Path) -> None:
    image = picture("a.png", 50, 200)
    predict("a.png", "--output", "out", "--large", "0.001", "--window", "250", "--flip", "--scale", "0.5")
    model, description = saved.load(run_folder / "student.safetensors")
    predictor = Predictor(model, Inference.model_validate(description["inference"]), [0.5], flip=True)
    assert (read("out/masks/a.png") == predictor(to_tensor([image], torch.device("cpu")))[0].numpy()).all()
    predict("a.png", "--output", "two", "--large", "0.001", "--window", "64", "--flip")
    assert read("two/masks/a.png").shape == (200, 50)


@pytest.mark.slow
def test_a_photo_is_scaled_as_in_training_however_large(run_folder: Path) -> None:
    save_network(f"{run_folder}/student.safetensors", resize=[640, 64])
    picture("a.jpg", 2500, 2000, quality=95)
    said = predict("a.jpg", "--output", "out")
    assert "scale" not in said, said
    model, description = saved.load(run_folder / "student.safetensors")
    predictor = Predictor(model, Inference.model_validate(description["inference"]))
    image = read("a.jpg")
    assert (read("out/masks/a.png") == predictor(to_tensor([image], torch.device("cpu")))[0].numpy()).all()
    assert "--large 5 scales" in predict("a.jpg", "--output", "small", "--large", "0.001", "--window", "2560")


def test_a_large_photo_is_turned_upright(run_folder: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture("a.jpg", 160, 96, exif=turned)
    predict("a.jpg", "--output", "out", "--large", "0.001", "--window", "64")
    assert read("out/masks/a.png").shape == read("out/overlays/a.jpg").shape[:2] == (160, 96)


def test_an_overlay_is_thinned_out(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualteacher.prediction import outputs

    monkeypatch.setattr(outputs, "OVERLAY_SIDE", 100)
    picture("a.tif", 160, 250)
    predict("a.tif", "--output", "out", "--large", "0.001", "--window", "64")
    with Image.open("out/overlays/a.jpg") as overlay:
        assert overlay.size == (54, 84), "every third pixel"


@pytest.mark.parametrize("large", ["4", "0.001"])
def test_georeference_is_kept(large: str, run_folder: Path) -> None:
    tifffile.imwrite("map.tif", pixels(64, 96), photometric="rgb", byteorder=">", extratags=EXTRA, metadata=None)
    predict("map.tif", "--output", "out", "--large", large, "--confidence")
    for kind in ("masks", "confidence"):
        with tifffile.TiffFile(f"out/{kind}/map.tif") as file:
            for tag, (_, value) in GEOREFERENCE.items():
                assert file.pages[0].tags[tag].value == value, tag
            assert file.asarray().shape == (64, 96)


def test_a_large_turned_tiff_is_a_failure(run_folder: Path) -> None:
    picture("a.tif", 96, 64, tiffinfo={274: 6})
    assert "save so large an image upright" in predict("a.tif", "--large", "0.001", code=1)
    predict("a.tif")
    assert read("predictions/masks/a.png").shape == (96, 64)


MEASURE = '''
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from torch import nn
from dualteacher.inference.predictor import Predictor
from dualteacher import load
from dualteacher.data.channels import Channels
from dualteacher.data.formats import tiff
from dualteacher.prediction.outputs import Files, Look
from dualteacher.prediction.large import Sweep
from dualteacher.settings import Inference
from dualteacher.system.errors import UserError
import numpy as np

class Network(nn.Module):  # one that costs nothing, of eight classes
    num_classes, mean = 8, torch.zeros(1)
    def forward(self, image):
        return image[:, :1, ::4, ::4] * torch.arange(8.0)[:, None, None]

torch.set_num_threads(1)
how = Inference(mode="whole", batch=2, resize=None, multiple=32, window=512, stride=384, blend="mean")
def sweep(path, window):
    file = Path(path)
    page = tiff.open_page(file)
    look = Look(np.zeros((256, 3), np.uint8), True, True)
    with Files(Path("out"), file.stem, (page.height, page.width), look, page) as written:
        for band in Sweep(Predictor(Network(), how), page, window, window * 3 // 4, 2, True).bands():
            written.write(band)
    return int(written.pixels.sum())

assert sweep("small.tif", 64) == 128 * 128
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sweep("large.tif", 512) == 9_008 * 6_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
'''  # fmt: skip


def blank(path: Path, height: int, width: int) -> None:
    """A deflated RGB image whose strips are all the same bytes: small on disk, whatever its size."""
    import zlib

    strip = zlib.compress(bytes(range(256)) * (width * 3 * 16 // 256))
    strips = (strip for _ in range(height // 16))
    options = {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 16}
    tifffile.imwrite(path, strips, shape=(height, width, 3), dtype=np.uint8, **options)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """Full-size logits of this image would be 1.7 GB, its pixels 162 MB."""
    blank(tmp_path / "small.tif", 128, 128)
    blank(tmp_path / "large.tif", 9_008, 6_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 450 * 1024, "KiB of memory beyond what the program and a small image take"
    with tifffile.TiffFile(tmp_path / "out/masks/large.tif") as file:
        assert file.pages[0].shape == (9_008, 6_000)


def test_chosen_bands_are_the_same_pixels_whole_in_windows_and_in_python(run_folder: Path) -> None:
    values = np.dstack([pixels(75, 50, 1), pixels(75, 50, 2)[..., :1]]).astype(np.uint16) * 9
    save_network("run/student.safetensors", channels=Channels((4, 2, 1), ((200.0, 2000.0),)))
    save_network("plain/student.safetensors")
    tifffile.imwrite("four.tif", values, photometric="rgb", rowsperstrip=9)
    chosen = values[..., [3, 1, 0]].astype(float)
    scaled = np.clip(np.rint((chosen - 200) * (255 / 1800)), 0, 255).astype(np.uint8)
    expected = load("plain").predict(scaled)
    predict("four.tif", "--output", "whole", "--batch", "1")
    np.testing.assert_array_equal(read("whole/masks/four.png"), expected.mask)
    np.testing.assert_array_equal(load("run").predict(values).confidence, expected.confidence)
    predict("four.tif", "--output", "pieces", "--large", "0.001", "--window", "32", "--stride", "16")
    Image.fromarray(scaled).save("scaled.tif")
    pieces = load("plain").predict("scaled.tif", large=0.001, window=32, stride=16)
    np.testing.assert_array_equal(read("pieces/masks/four.tif"), pieces.mask)
    windows = ("--large", "0.001", "--window", "32", "--stride", "16")
    predict("four.tif", "--output", "tapered", *windows, "--blend", "taper")
    tapered = load("plain").predict("scaled.tif", large=0.001, window=32, stride=16, blend="taper")
    np.testing.assert_array_equal(read("tapered/masks/four.tif"), tapered.mask)
    assert not np.array_equal(tapered.confidence, pieces.confidence)


def test_four_bands_are_predicted_whole_and_in_windows_with_overlays(run_folder: Path) -> None:
    values = np.dstack([pixels(75, 50, 1), pixels(75, 50, 2)[..., :1]])
    network = save_network("run/student.safetensors", channels=Channels((4, 2, 1, 3)))
    tifffile.imwrite("four.tif", values, photometric="rgb", rowsperstrip=9)
    how = Inference.model_validate(saved.load(run_folder / "student.safetensors")[1]["inference"])
    expected = Predictor(network, how)(to_tensor([values[..., [3, 1, 0, 2]]], torch.device("cpu")))[0]
    predict("four.tif", "--output", "whole")
    np.testing.assert_array_equal(read("whole/masks/four.png"), expected.numpy())
    assert read("whole/overlays/four.jpg").shape == (75, 50, 3)
    with pytest.raises(
        UserError, match=r"images\[0\]: cannot be predicted: holds 2 bands, and `bands` asks for band 4"
    ):
        load("run").predict(values[..., :2])
    tifffile.imwrite("two.tif", values[..., :2], planarconfig="contig")
    assert "two.tif: holds 2 bands" in predict("two.tif", "--output", "two", code=1)
    predict("four.tif", "--output", "pieces", "--large", "0.001", "--window", "96")
    np.testing.assert_array_equal(read("pieces/masks/four.tif"), expected.numpy())
    assert read("pieces/overlays/four.jpg").shape == (75, 50, 3)


def test_pixels_without_data_get_no_class(run_folder: Path) -> None:
    values = np.dstack([pixels(75, 50, 1), pixels(75, 50, 2)[..., :1]]).astype(np.float32)
    values[20:30, 7:40, 1] = np.nan
    values[60:] = -1
    missing = np.isnan(values[..., 1]) | (values == -1).all(-1)
    save_network("run/student.safetensors", channels=Channels((1, 2, 3, 4), ((0.0, 255.0),)))
    nodata = [(42113, 2, 3, "-1", True)]
    tifffile.imwrite("holes.tif", values, photometric="rgb", rowsperstrip=9, metadata=None, extratags=nodata)
    predict("holes.tif", "--output", "whole", "--confidence")
    predict("holes.tif", "--output", "pieces", "--confidence", "--large", "0.001", "--window", "32", "--stride", "16")
    for folder, ending in (("whole", "png"), ("pieces", "tif")):
        np.testing.assert_array_equal(read(f"{folder}/masks/holes.{ending}") == 255, missing)
        assert (read(f"{folder}/confidence/holes.{ending}")[missing] == 0).all()
    assert (load("run").predict(values).mask == 255).sum() == 330, "an array has no nodata value, but NaN"
