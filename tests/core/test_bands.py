"""Networks of other than three bands: colour operations, the first layer, and a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualteacher import load
from dualteacher.core import mixing, views
from dualteacher.data import augment, loader
from dualteacher.data.channels import RGB, Channels
from dualteacher.data.loader import Augmented, Item
from dualteacher.data.pack import Pack, PackWriter, Sample, decode_image, encode_array
from dualteacher.inference.predictor import to_tensor
from dualteacher.models import band_weights, saved, segmenter
from dualteacher.stages import evaluate, train, warmup
from dualteacher.system import paths

from .conftest import prepare, toy_settings, write_pack

FIVE, THERMAL = Channels((4, 3, 2, 8, 12)), Channels((1,))
INFRARED = Channels((4, 3, 2), rgb=False)
FACTORS = torch.tensor([[1.3, 0.6, 1.4, 0.2], [0.7, 1.4, 0.5, -0.25]])


def images(channels: int) -> torch.Tensor:
    return torch.rand(2, channels, 12, 16, generator=torch.Generator().manual_seed(0))


def test_jitter_changes_the_colours_of_rgb_and_only_light_and_contrast_of_other_bands() -> None:
    image = images(5)
    found = views.jitter(image, FACTORS, (2, 0, 3, 1))
    torch.testing.assert_close(found[:, :3], views.jitter(image[:, :3], FACTORS, (2, 0, 3, 1)))
    bright = (image[:, 3:] * FACTORS[:, 0].view(2, 1, 1, 1)).clamp(0, 1)
    mean = bright.mean((2, 3), keepdim=True)
    expected = (mean + (bright - mean) * FACTORS[:, 1].view(2, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(found[:, 3:], expected)
    torch.testing.assert_close(views.jitter(image[:, 3:], FACTORS), expected)


def test_grayscale_leaves_other_bands() -> None:
    image, chosen = images(5), torch.tensor([True, False])
    found = views.grayscale(image, chosen)
    assert torch.equal(found[:, 3:], image[:, 3:]) and torch.equal(found[1], image[1])
    assert torch.equal(found[0, 0], found[0, 2]) and not torch.equal(found[0, 0], image[0, 0])
    assert torch.equal(views.grayscale(image[:, :1], chosen), image[:, :1])


def test_without_rgb_no_saturation_hue_or_grayscale_is_drawn() -> None:
    settings = toy_settings().mixing
    colour, still = (mixing.draw(one, 1, 3, 16, 3, (32, 32)) for one in (settings, views.without_colour(settings)))
    assert colour.gray.any() and (colour.strong_jitter[:, 3] != 0).any()
    assert not still.gray.any()
    for ours, theirs in ((still.mix_jitter, colour.mix_jitter), (still.strong_jitter, colour.strong_jitter)):
        assert torch.equal(ours[:, :2], theirs[:, :2]), "the same light and contrast"
        assert (ours[:, 2] == 1).all() and (ours[:, 3] == 0).all()


@pytest.mark.parametrize("channels, coloured", [(RGB, True), (FIVE, True), (THERMAL, False), (INFRARED, False)])
def test_the_weak_distortion_keeps_the_same_rule(tmp_path: Path, channels: Channels, coloured: bool) -> None:
    pack = Pack(write_pack(tmp_path / "train.arrow", 4, seed=1, channels=channels))
    options = toy_settings().augment.model_copy(update={"photometric": True})
    dataset = Augmented(pack, options, 32, np.full(channels.count, 9, np.uint8), 0)
    examples = [dataset[Item("labelled", turn, turn % 4)] for turn in range(12)]
    assert all(example.image.shape == (32, 32, channels.count) for example in examples)
    factors = np.stack([example.factors for example in examples])
    assert (factors[:, 0] != 1).any()
    assert (factors[:, 2:] != (1, 0)).any() == coloured


def test_crops_of_any_number_of_bands_equal_those_of_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    crop, pad = augment.Crop(0, 5, 30, 41, 32), np.array([1, 2, 3], np.uint8)
    expected = augment.cut_image(image, crop, pad)
    many = augment.cut_image(image[..., [0, 1, 2, 2, 0]], crop, pad[[0, 1, 2, 2, 0]])
    np.testing.assert_array_equal(many, expected[..., [0, 1, 2, 2, 0]])
    np.testing.assert_array_equal(augment.cut_image(image[..., 1:2], crop, pad[1:2]), expected[..., 1:2])


def test_crops_of_16_bits_keep_fractions_and_reach_the_network_as_they_are(tmp_path: Path) -> None:
    fine = Channels((1, 2, 3, 4), depth=16)
    values = np.random.default_rng(0).integers(0, 65536, (40, 56, 4), dtype=np.uint16)
    with PackWriter(tmp_path / "p.arrow", "toy", 2, fine) as writer:
        writer.add(Sample("one", encode_array(values), None, 40, 56))
    pack = Pack(tmp_path / "p.arrow")
    assert pack.channels == fine and pack.picture(0).dtype == np.uint8
    crop, pad = augment.Crop(4, 8, 40, 56, 32), np.zeros(4, np.uint8)
    cut = augment.cut_image(pack.image(0), crop, pad)
    np.testing.assert_allclose(cut, values[4:36, 8:40] / 257, rtol=1e-6)
    options = toy_settings().augment.model_copy(update={"photometric": False})
    dataset = Augmented(pack, options, 32, pad, 0)
    examples = [dataset[Item("unlabelled", 0, 0)], dataset[Item("unlabelled", 1, 0)]]
    batch = loader._Collate(1)(examples)
    images = loader.finish(batch)
    np.testing.assert_array_equal(batch.labelled[0].permute(1, 2, 0), examples[0].image)  # not changed in place
    torch.testing.assert_close(images.labelled, batch.labelled / 255)
    torch.testing.assert_close(to_tensor([cut], torch.device("cpu"))[0].permute(1, 2, 0), torch.from_numpy(cut) / 255)


def test_a_pack_refuses_arrays_that_are_no_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 13), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_array(pixels)), pixels)
    for wrong in (pixels.astype(np.float32), pixels[0]):
        with pytest.raises(ValueError, match="an array of"):
            decode_image(encode_array(wrong))
    with pytest.raises(ValueError):
        decode_image(encode_array(pixels)[:-3])


def net(backbone: str, channels: Channels) -> segmenter.Segmenter:
    model = toy_settings(model={"backbone": backbone}).model
    return segmenter.build(model, 3, None, drop_path=0.0, seed=0, channels=channels).eval()


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "mit_b0", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("channels", [THERMAL, FIVE, Channels((1, 2), rgb=False), Channels((7, 5, 3, 1), rgb=False)])
def test_bands_that_are_all_alike_give_what_grey_gives_the_rgb_network(backbone: str, channels: Channels) -> None:
    rgb, many = net(backbone, RGB), net(backbone, channels)
    wanted = many.backbone.state_dict()
    many.backbone.load_state_dict(band_weights.inflate(rgb.backbone.state_dict(), wanted, channels, ""))
    many.head.load_state_dict(rgb.head.state_dict())
    for network in (rgb, many):  # the same normalisation for all channels
        network.mean.fill_(0.5), network.std.fill_(0.25)
    grey = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = many(grey.repeat(1, channels.count, 1, 1)), rgb(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_rgb_bands_keep_their_weights_and_statistics_and_others_get_the_mean() -> None:
    weight = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    wanted = {"first": torch.empty(4, 5, 2, 2), "later": torch.empty(8, 3, 1, 1)}
    found = band_weights.inflate({"first": weight, "later": torch.ones(8, 3, 1, 1)}, wanted, FIVE, "")
    torch.testing.assert_close(found["first"][:, :3], weight * 0.6)
    torch.testing.assert_close(found["first"][:, 3:], weight.mean(1, keepdim=True).expand(4, 2, 2, 2) * 0.6)
    assert torch.equal(found["later"], torch.ones(8, 3, 1, 1))
    assert band_weights.inflate({"first": weight}, {"first": weight}, INFRARED, "")["first"] is weight
    assert band_weights.statistics((0.1, 0.2, 0.6), FIVE) == pytest.approx([0.1, 0.2, 0.6, 0.3, 0.3])
    assert band_weights.statistics((0.1, 0.2, 0.6), THERMAL) == pytest.approx([0.3])


@pytest.mark.slow
def test_a_run_on_five_bands_from_warm_up_to_a_prediction_in_python(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = toy_settings(warmup={"steps": 1}, train={"steps": 2})
    prepare(settings, FIVE)
    warmup.run(settings, "toy", "some", 0)
    train.run(settings, "toy", "some", "dual_teacher", 0)
    evaluate.run(settings, "toy", "some", "dual_teacher", 0)
    cell = paths.Cell("toy", "some", "dual_teacher", 0)
    network, description = saved.load(cell.student)
    assert network.channels == FIVE and description["channels"] == FIVE.describe()
    assert network.mean.shape == (1, 5, 1, 1)
    assert "bands 4, 3, 2, 8, 12" in cell.model_card.read_text(encoding="utf-8")
    with Image.open(cell.gallery) as sheet:
        assert sheet.mode == "RGB"
    stored = np.random.default_rng(0).integers(0, 256, (40, 56, 12), dtype=np.uint8)
    prediction = load(cell.student, device="cpu").predict(stored)
    assert prediction.mask.shape == (40, 56)
    alike = stored.copy()
    alike[..., 0] = 0  # band 1 is not among the chosen ones
    np.testing.assert_array_equal(load(cell.student, device="cpu").predict(alike).confidence, prediction.confidence)
