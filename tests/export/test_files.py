"""`export` on a trained cell: files that others can run, measured, and removed where they are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from dualteacher import cli
from dualteacher.commands import export
from dualteacher.data.pack import Pack
from dualteacher.export import job, network, onnx_file, parity
from dualteacher.models import named, saved
from dualteacher.system import paths
from tests.export.conftest import CELL

pytestmark = pytest.mark.slow

FOLDER = paths.EXPORTS / "toy-some-supervised-0"
EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"


@pytest.fixture(scope="module")
def exported(trained) -> dict:
    """What export.json says after `export --precision int8`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dualteacher", "export", str(CELL.folder), "--precision", "int8"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    return json.loads((FOLDER / "export.json").read_text())


@pytest.fixture
def converted(exported, monkeypatch) -> onnx.ModelProto:
    """The float32 model, which further exports then need not be converted to: that takes seconds."""
    model = onnx.load(FOLDER / "model.onnx")
    monkeypatch.setattr(onnx_file, "from_program", lambda program: model)
    return model


def test_the_float32_files_are_the_network(exported):
    segmenter, _ = saved.load(CELL.student)
    image = np.random.default_rng(0).random((3, 3, 96, 64), np.float32)
    expected = parity.torch_runner(network.Logits(segmenter))(image)
    program = torch.export.load(FOLDER / "model.pt2").module()
    for found in (onnx_file.runner(FOLDER / "model.onnx")(image), parity.torch_runner(program)(image)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    for name in ("model.onnx", "model.pt2"):
        assert exported["files"][name]["equal_pixels"] >= 0.999
        assert 0 <= exported["files"][name]["largest_logit_difference"] < 1e-3


def test_batch_and_sides_are_free_and_the_file_explains_itself(exported):
    model = onnx.load(FOLDER / "model.onnx")
    (image,), (logits,) = model.graph.input, model.graph.output
    dimensions = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert dimensions == [["batch", 3, "height", "width"], ["batch", 3, "height", "width"]]
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["dualteacher"])
    assert about == named.load(CELL.student)[1]


def test_the_files_name_no_place_of_this_machine(exported):
    for name in ("model.onnx", "model.pt2", "model-int8.onnx"):
        content = (FOLDER / name).read_bytes()
        assert str(Path.home()).encode() not in content or Path.home() == Path("/")
        assert b"site-packages" not in content and str(EXAMPLE.parents[1]).encode() not in content, name


def test_int8_is_smaller_and_its_loss_is_measured(exported):
    assert (FOLDER / "model-int8.onnx").stat().st_size < 0.5 * (FOLDER / "model.onnx").stat().st_size
    numbers = exported["files"]["model-int8.onnx"]
    trained = json.loads(CELL.metrics.read_text())["miou"]
    assert trained > 0.5
    assert numbers["miou_float32"] == pytest.approx(trained, abs=0.01)
    assert numbers["miou"] == pytest.approx(trained, abs=0.2) and numbers["miou"] != numbers["miou_float32"]


def test_float16_with_argmax_inside(converted, tmp_path):
    assert export.run(CELL.student, tmp_path, None, "float16", True)
    files = json.loads((tmp_path / "export.json").read_text())["files"]
    assert files.keys() == {"model.onnx", "model.pt2", "model-float16.onnx"}
    assert all(numbers["equal_pixels"] > 0.98 for numbers in files.values())
    assert 1e-3 < files["model-float16.onnx"]["largest_logit_difference"] < 0.5
    image = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    found = [onnx_file.runner(tmp_path / name)(image) for name in ("model.onnx", "model-float16.onnx")]
    found.append(parity.torch_runner(torch.export.load(tmp_path / "model.pt2").module())(image))
    assert all(classes.shape == (2, 64, 96) and classes.dtype == np.uint8 for classes in found)
    half = onnx.load(tmp_path / "model-float16.onnx").graph.initializer
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in half)


def test_a_wrong_file_is_removed_and_the_exit_code_is_1(converted, tmp_path, monkeypatch, capsys):
    bias = next(t for t in converted.graph.initializer if t.name.endswith("classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([9, 0, 0], np.float32), bias.name))
    monkeypatch.setattr(sys, "argv", ["dualteacher", "export", str(CELL.folder), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "model.onnx: removed, because its predictions differ from the network's" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "export.json"}


@pytest.mark.parametrize("argmax", [False, True])
def test_the_example_labels_images_without_this_package(converted, tmp_path, argmax):
    model = FOLDER / "model.onnx"
    if argmax:
        model = tmp_path / "model.onnx"
        onnx_file.write(model, onnx_file.with_argmax(converted), named.load(CELL.student)[1])
    pack = Pack(paths.Dataset("toy").val)
    Image.fromarray(pack.image(0)).save(tmp_path / "photo.png")
    # Isolated: neither this project's folder nor its installation is looked into for imports.
    hidden = (
        "import sys, runpy; sys.modules['dualteacher'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    )
    command = [sys.executable, "-I", "-c", hidden, str(EXAMPLE), str(model), str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "photo.classes.png") as picture:
        mask, palette = np.array(picture), picture.getpalette()
    inference = job.open_job(CELL.student, None, False).inference
    expected = parity.classes(onnx_file.runner(FOLDER / "model.onnx")(parity.prepare(pack.image(0), inference)))[0]
    expected = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize(mask.shape[::-1], Image.Resampling.NEAREST))
    assert (mask == expected).mean() > 0.99
    assert palette is not None and palette[:9] == [120, 90, 60, 200, 30, 30, 30, 30, 200]
    assert "photo.png ground" in done.stdout
