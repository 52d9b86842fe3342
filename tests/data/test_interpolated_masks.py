"""Masks that were resized smoothly or compressed lossily: recognised, said, and read by the nearest value."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_project import project  # noqa: F401
from pictures import encoded, photo, put
from PIL import Image
from typer.testing import CliRunner

from dualteacher import cli, settings
from dualteacher.data.formats import interpolation, mask_files
from dualteacher.data.sources.folder import Folder
from dualteacher.system.errors import UserError

ROOT = Path(__file__).parents[2]
COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
MINE = Path("own_data/mine")
SIZE = (96, 128)


def drawn(i: int) -> np.ndarray:
    """Classes 0…2, each in one piece, at half the masks' size."""
    mask = np.zeros((SIZE[0] // 2, SIZE[1] // 2), np.uint8)
    mask[5 + i : 22 + i, 6:26] = 1
    mask[12:40, 34 + i : 58] = 2
    return mask


def smooth(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BILINEAR)


def fill(masks: list[bytes]) -> None:
    for i, mask in enumerate(masks):
        put(MINE / f"images/{i}.png", photo(i, *SIZE))
        put(MINE / f"masks/{i}.png", mask)


def init() -> tuple[settings.Folder, str]:
    done = CliRunner().invoke(cli.app, ["init", "--force", str(MINE)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    dataset = settings.load().datasets["mine"]
    assert isinstance(dataset, settings.Folder)
    return dataset, done.stdout


def indices(dataset: settings.Folder) -> dict[int, np.ndarray]:
    """Class indices of every image, without an error."""
    content = Folder(dataset).look()
    samples = [sample for split in ("train", "val") for sample in content.samples(split)]
    masks = {int(sample.image_id[-1]): sample.mask for sample in samples}
    with_masks = {i: mask for i, mask in masks.items() if mask is not None}
    return {i: np.asarray(Image.open(io.BytesIO(mask))) for i, mask in with_masks.items()}


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 80}), ("WEBP", {"quality": 80}), ("TIFF", {})]
)
def test_black_and_white_masks_with_grey_edges_have_two_classes(kind: str, options: dict[str, int]) -> None:
    large = [smooth(np.uint8(255) * (drawn(i) > 0)) for i in range(6)]
    fill([encoded(image, kind, **options) for image in large])
    dataset, told = init()
    assert [entry.value for entry in dataset.classes] == [0, 255] and dataset.ignore == []
    assert "stand at edges, as after smooth resizing or lossy compression: they take the nearest" in told
    for i, mask in indices(dataset).items():
        expected = np.asarray(large[i]) > 127
        assert set(np.unique(mask)) == {0, 1}
        assert (mask != expected).mean() < (0.002 if options else 1e-9), "compression moves few edge pixels"


def test_grey_levels_in_lossy_webp_are_values_in_every_file() -> None:
    """Its greys come back with channels that differ by 1 in some files, and an area's level drifts."""
    large = [drawn(i).repeat(2, 0).repeat(2, 1) for i in range(6)]
    fill([encoded(np.uint8(100) * mask, "WEBP", quality=60) for mask in large])
    dataset, told = init()
    assert len(dataset.classes) == 3 and "cannot be used" not in told
    assert all(abs(entry.value - 100 * i) <= 3 for i, entry in enumerate(dataset.classes))  # type: ignore[operator]
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert done.exit_code == 0, done.output
    for i, mask in indices(dataset).items():
        assert ((mask != large[i]) & (mask != 255)).mean() < 0.01
    nearly = np.full((16, 16, 3), [100, 100, 101], np.uint8)
    assert (mask_files.read_values(encoded(nearly, "WEBP", quality=100), color=False).values == 100).all()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        with pytest.raises(mask_files.Colored):
            mask_files.read_values(encoded(nearly, kind, **options), color=False)


@pytest.mark.parametrize("quality", [30, 80])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_noise_of_lossy_compression_gives_no_classes(kind: str, quality: int) -> None:
    """Without smooth edges; colours, greys, black and white. Neighbouring indices cannot be told apart."""
    drawings = [drawn(i).repeat(2, 0).repeat(2, 1) for i in range(6)]
    for table, expected in (
        (np.array([0, 100, 200], np.uint8), [0, 100, 200]),
        (np.array([0, 255, 255], np.uint8), [0, 255]),
        (COLORS, [0x000000, 0x00C800, 0xC80000]),
        (np.array([0, 1, 2], np.uint8), None),
    ):
        seen, color = interpolation.NOTHING, table.ndim == 2
        for mask in drawings:
            read = mask_files.read_values(encoded(table[mask], kind, quality=quality), color)
            assert read.lossy
            seen += interpolation.texture(read.values, color)
        found = interpolation.areas(seen, color, lossy=True)
        if expected is None or found is None:
            assert found is expected
        else:
            near = interpolation.channels(np.array(found)) - interpolation.channels(np.array(expected))
            assert len(found) == len(expected) and np.abs(near).max() <= 4


def test_jpegs_by_name_are_read_like_those_called_png() -> None:
    small = [np.uint8(255) * (drawn(i) == 2) for i in range(6)]
    fill([encoded(smooth(pixels), "JPEG", quality=90) for pixels in small])
    for path in list((MINE / "masks").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    dataset, _ = init()
    assert [entry.value for entry in dataset.classes] == [0, 255] and dataset.tolerance == 127.5
    for i, mask in indices(dataset).items():
        assert (mask != (np.asarray(smooth(small[i])) > 127)).mean() < 0.002


def test_edges_between_colours_are_the_nearest_class_or_ignored() -> None:
    large = [smooth(COLORS[drawn(i)]) for i in range(6)]
    fill([encoded(image, "PNG") for image in large])
    dataset, told = init()
    values = [entry.value for entry in dataset.classes]
    assert values == [[0, 0, 0], [0, 200, 0], [200, 0, 0]] and dataset.tolerance == 50
    assert "masks: only 3 colours fill areas" in told and "farther ones are ignored" in told
    for i, mask in indices(dataset).items():
        distance = np.linalg.norm(np.asarray(large[i], float)[..., None, :] - np.array(values, float), axis=-1)
        expected = np.where(distance.min(-1) <= 50, distance.argmin(-1), 255)
        np.testing.assert_array_equal(mask, expected)
        assert 0 < (mask == 255).sum() < 0.1 * mask.size
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert done.exit_code == 0
    assert "pixels take the nearest listed value, " in done.stdout and "beyond the tolerance are ignored" in done.stdout


def test_without_a_tolerance_unlisted_values_stay_errors_and_palettes_have_none() -> None:
    fill([encoded(smooth(np.uint8(255) * (drawn(i) > 0)), "PNG") for i in range(6)])
    init()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["datasets"]["mine"]["tolerance"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(params))
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert done.exit_code == 1 and "allowed 0, 255" in done.stdout
    params["datasets"]["mine"]["tolerance"] = 127.5
    Path("params.yaml").write_text(yaml.safe_dump(params))
    shown = Image.fromarray(np.where(drawn(0) == 2, np.uint8(7), np.uint8(0))).resize(SIZE[::-1], 0)
    shown.putpalette(np.arange(768, dtype=np.uint32).astype(np.uint8).tobytes())
    put(MINE / "masks/0.png", encoded(shown, "PNG"))
    done = CliRunner().invoke(cli.app, ["check-data"])
    assert "masks/0.png: 2" in done.stdout and "pixels with values [7], allowed 0, 255" in done.stdout


def areas(masks: list[np.ndarray]) -> list[int] | None:
    seen = interpolation.NOTHING
    for mask in masks:
        seen += interpolation.texture(mask, color=False)
    return interpolation.areas(seen, color=False)


def test_class_masks_are_not_taken_for_interpolated() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 9, SIZE, dtype=np.uint8)
    blocks = np.kron(rng.integers(0, 40, (12, 16), dtype=np.uint8), np.ones((8, 8), np.uint8))
    lines = np.zeros(SIZE, np.uint8)
    lines[50:] = 6
    for value in range(1, 6):
        lines[6 * value, :] = lines[:, 20 * value] = value  # thin classes on an area, and across both
    assert [areas([masks]) for masks in (noise, blocks, lines)] == [None, None, None]
    steep = np.asarray(smooth(np.uint8(60) * drawn(0)))
    assert areas([steep]) == [0, 60, 120]


def test_grey_levels_are_no_classes() -> None:
    steps = np.arange(SIZE[1], dtype=np.uint8) * 2
    fill([encoded(np.roll(np.tile(steps, (SIZE[0], 1)), i), "PNG") for i in range(6)])
    with pytest.raises(UserError, match="hold 128 values, few of which fill areas: are they photos, probability maps"):
        init()
    many = np.kron(np.arange(192, dtype=np.uint8).reshape(12, 16), np.ones((8, 8), np.uint8))
    fill([encoded(many, "PNG") for i in range(6)])
    assert len(init()[0].classes) == 192, "classes that fill areas may be many"


def test_trimaps() -> None:
    values = np.array([0, 128, 255], np.uint8)
    fill([encoded(values[drawn(i)].repeat(2, 0).repeat(2, 1), "PNG") for i in range(6)])
    dataset, told = init()
    assert [entry.value for entry in dataset.classes] == [0, 255] and dataset.ignore == [128]
    assert "a trimap, of which 0 and 255 are classes and 128 is unknown, so ignored" in told


def test_colours_without_areas_are_refused() -> None:
    fill([encoded(photo(i, *SIZE), "PNG") for i in range(6)])
    with pytest.raises(UserError, match="more than 255 colours, so they are not class masks"):
        init()
