"""What is exported is the network itself; what is compared is compared strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper

from dualteacher.commands import export
from dualteacher.data.channels import Channels
from dualteacher.data.pack import Pack, PackWriter, Sample
from dualteacher.export import network, onnx_file, parity
from dualteacher.export.parity import Parity
from dualteacher.inference.predictor import Predictor
from dualteacher.models import timm_backbones
from dualteacher.models.segmenter import build
from dualteacher.settings import Inference
from dualteacher.system.errors import UserError
from tests.core.conftest import png, write_pack
from tests.models.conftest import model, randomised

WHOLE = Inference(mode="whole", batch=4, resize=None, multiple=32, window=96, stride=64, blend="mean")


@pytest.mark.parametrize(
    ("backbone", "architecture", "norm"),
    [
        ("tf_efficientnet_lite0", "segformer", "batch"),
        ("mit_b0", "segformer", "group"),
        ("tf_efficientnet_lite0", "deeplabv3plus", "batch"),
    ],
)
def test_the_form_that_is_exported_computes_the_same(backbone, architecture, norm):
    section = model(backbone=backbone, architecture=architecture, head_norm=norm)
    segmenter = randomised(build(section, 5, None, drop_path=0.2))
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    image = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.ready(segmenter)(image), segmenter(image), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "architecture"), [("test_vit", "dpt"), ("vit_small_patch14_dinov2", "dpt")])
def test_a_plain_transformer_in_onnx_takes_any_size_and_batch(backbone, architecture, tmp_path):
    """Patches of 16 divide the sides, patches of 14 do not: 448 is a multiple of both, 64 and 96 are not of 14."""
    torch.manual_seed(0)
    segmenter = build(model(backbone=backbone, architecture=architecture), 5, None, drop_path=0.0, seed=0).eval()
    torch.nn.init.normal_(segmenter.backbone.model.pos_embed)  # random, so that a wrong interpolation shows
    program = network.program(segmenter)
    onnx_file.write(tmp_path / "vit.onnx", onnx_file.from_program(program), {})
    run, expected = onnx_file.runner(tmp_path / "vit.onnx"), parity.torch_runner(network.Logits(segmenter))
    for shape in ((1, 3, 64, 96), (2, 3, 160, 64), (1, 3, 448, 96)):
        image = np.random.default_rng(0).random(shape, np.float32)
        wanted = expected(image)
        for found in (run(image), parity.torch_runner(program.module())(image)):
            assert np.abs(found - wanted).max() < 1e-3 * wanted.std()


SWIN = "swin_tiny_patch4_window7_224"


def test_swin_without_a_size_is_refused_in_one_line():
    segmenter = build(model(backbone=SWIN), 5, None, drop_path=0.0, seed=0)
    with pytest.raises(UserError, match=f"{SWIN} has windows that depend on the image's size.*--size HEIGHT WIDTH"):
        network.program(segmenter)
    for size in ((100, 64), (32, 64)):
        with pytest.raises(
            UserError, match=rf"--size {size[0]} {size[1]}: both sides must be multiples of 32, from 64"
        ):
            network.program(segmenter, size=size)


@pytest.mark.slow
def test_swin_of_one_size_in_onnx_takes_any_batch(tmp_path, monkeypatch):
    """With one block a stage; 96 by 128 pixels are no multiple of its windows of 28."""
    create, small = timm.create_model, {"embed_dim": 24, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 3, 4)}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(small | options)))
    timm_backbones._free.cache_clear()
    segmenter = build(model(backbone=SWIN), 5, None, drop_path=0.0, seed=0)
    timm_backbones._free.cache_clear()
    randomised(segmenter)
    size = (96, 128)
    made = onnx_file.from_program(network.program(segmenter, size=size))
    onnx_file.write(tmp_path / "swin.onnx", made, {})
    onnx_file.write(tmp_path / "classes.onnx", onnx_file.with_argmax(made), {})
    for value in (made.graph.input[0], made.graph.output[0]):
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim][2:] == [96, 128]
    run, expected = onnx_file.runner(tmp_path / "swin.onnx"), parity.torch_runner(network.Logits(segmenter))
    for batch in (1, 3):
        image = np.random.default_rng(0).random((batch, 3, *size), np.float32)
        wanted = expected(image)
        assert np.abs(run(image) - wanted).max() < 1e-3 * wanted.std()
    labels = onnx_file.runner(tmp_path / "classes.onnx")(image)
    assert labels.shape == (3, *size) and (labels == wanted.argmax(1)).mean() > 0.999


def test_images_for_a_file_of_one_size_have_it(tmp_path):
    pack = Pack(write_pack(tmp_path / "val.arrow", 5, seed=0, sizes=((48, 64), (56, 40))))
    made = parity.batches(pack, WHOLE, (96, 64))
    assert {batch.shape[2:] for batch in made} == {(96, 64)} and sum(len(batch) for batch in made) == 5
    assert parity.prepare(pack.image(0), WHOLE, (64, 128)).shape == (1, 3, 64, 128)
    masks = iter([pack.mask(i) for i in range(5)])
    assert parity.miou(lambda images: next(masks)[None], pack, WHOLE, "truth", (96, 64)) == 1.0


def logits(*values: list[float]) -> np.ndarray:
    """One image of one row: a class's logits by pixel, class by class."""
    return np.array(values, np.float32)[None, :, None, :]


def test_parity_counts_pixels_and_keeps_the_largest_difference():
    found = Parity()
    found.add(logits([1, 1, 1, 1], [0, 0, 0, 0]), logits([1, 1, 1, 0.25], [0, 0, 0, 0.5]))
    found.add(logits([1], [0]), logits([1.5], [0]))
    assert (found.images, found.pixels, found.equal) == (2, 5, 4) and found.largest == 0.75
    assert not found.good
    assert str(found) == "80.000 % of 5 pixels in 2 images equal, largest logit difference 0.75"


def test_parity_is_good_from_999_pixels_in_a_thousand_and_never_rounds_up():
    same, other = np.zeros((1, 1, 100_000), np.uint8), np.zeros((1, 1, 100_000), np.uint8)
    found = Parity()
    other[..., :100] = 1
    found.add(same, other)
    assert found.good and str(found).startswith("99.900 % of 100,000 pixels")
    other[..., 100] = 1
    found = Parity()
    found.add(same, other)
    assert not found.good and str(found).startswith("99.899 %")
    other[:] = 0
    other[..., 0] = 1
    found = Parity()
    for _ in range(3):
        found.add(same, same)
    found.add(same, other)
    assert str(found).startswith("99.999 %")


def test_files_are_compared_alone_in_pairs_and_at_another_size(tmp_path):
    pack = Pack(write_pack(tmp_path / "val.arrow", 7, seed=0, sizes=((48, 64), (56, 40))))
    shapes = [batch.shape for batch in parity.batches(pack, WHOLE)]
    assert shapes[0] == (1, 3, 64, 64)
    assert sum(shape[0] for shape in shapes[:-1]) == 7
    assert any(shape[0] == 2 for shape in shapes)
    assert shapes[-1][2:] not in {shape[2:] for shape in shapes[:-1]}
    assert all(side % 32 == 0 for shape in shapes for side in shape[2:])


def test_images_are_prepared_as_evaluation_does(tmp_path):
    """The class maps, at the network's size, of the predictor that evaluate uses."""
    segmenter = randomised(build(model(backbone="mobilenetv2_100", sync_norm=False), 3, None, drop_path=0.0))
    pack = Pack(write_pack(tmp_path / "val.arrow", 2, seed=0, sizes=((64, 96), (70, 110))))
    seen = []
    segmenter.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for inference in (WHOLE, WHOLE.model_copy(update={"resize": [200, 100]})):
        for i in range(2):
            seen.clear()
            Predictor(segmenter, inference)(torch.from_numpy(pack.image(i)).permute(2, 0, 1)[None] / 255)
            np.testing.assert_allclose(parity.prepare(pack.image(i), inference), seen[0].numpy(), atol=1e-6)


def test_miou_is_that_of_the_masks(tmp_path):
    pack = Pack(write_pack(tmp_path / "val.arrow", 4, seed=0, sizes=((64, 96),), unmasked=1))
    masks = iter([pack.mask(i) for i in range(3)])
    assert parity.miou(lambda images: next(masks)[None], pack, WHOLE, "truth") == 1.0
    assert parity.miou(lambda images: np.zeros((1, 64, 96), np.uint8), pack, WHOLE, "ground") < 0.4


def tiny_onnx() -> onnx.ModelProto:
    """Three classes: the image's own channels."""
    sides = ["batch", 3, "height", "width"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "tiny", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_argmax_inside_gives_the_class_with_the_largest_logit(tmp_path):
    onnx_file.write(tmp_path / "classes.onnx", onnx_file.with_argmax(tiny_onnx()), {"crop": 32})
    image = np.random.default_rng(0).random((2, 3, 5, 7), np.float32)
    found = onnx_file.runner(tmp_path / "classes.onnx")(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image.argmax(1))
    assert '{"crop": 32}' in onnx.load(tmp_path / "classes.onnx").metadata_props[0].value


def test_a_run_without_its_images_is_refused_in_one_line(tmp_path, monkeypatch):
    from dualteacher.models import saved

    monkeypatch.chdir(tmp_path)
    segmenter = build(model(backbone="mobilenetv2_100", sync_norm=False), 3, None, drop_path=0.0)
    known = {"classes": [{"name": name} for name in ("ground", "disc", "bar")], "cell": {"dataset": "toy"}}
    saved.save(Path("a"), segmenter, known)
    saved.save(Path("b"), segmenter, known | {"inference": WHOLE.model_dump()})
    val = write_pack(tmp_path / "val.arrow", 2, seed=0)
    with PackWriter(tmp_path / "two.arrow", "toy", 2) as writer:
        writer.add(Sample("a", png(np.zeros((8, 8, 3), np.uint8)), None, 8, 8))
    for weights, pack, words in (
        ("a", val, "contains no inference settings"),
        ("b", None, "--pack FILE.arrow"),
        ("b", tmp_path / "two.arrow", "its classes differ from those"),
        ("none", val, "no such file"),
    ):
        with pytest.raises(UserError, match=words):
            export.run(Path(weights), None, pack, "float32", False)


def test_the_example_is_short_and_stands_alone():
    text = (Path(__file__).parents[2] / "examples" / "run_onnx.py").read_text()
    assert len(text.splitlines()) <= 90
    assert "import dualteacher" not in text and "from dualteacher" not in text


@pytest.mark.slow
def test_five_bands_are_exported() -> None:
    made = build(model(backbone="mobilenetv2_100"), 3, None, drop_path=0.0, seed=0, channels=Channels((1, 2, 3, 4, 5)))
    image = torch.rand(1, 5, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = network.program(made).module()(image), network.Logits(made.eval())(image)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
