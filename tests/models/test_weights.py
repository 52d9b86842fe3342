"""Pretrained backbones from every source: wheel, timm, a path, none; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from dualteacher.data.fetch.wheel import Wheel
from dualteacher.models import saved, tensors, weights
from dualteacher.models.mix_transformer import MixTransformer
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.stages import weights as stage
from dualteacher.system import paths
from dualteacher.system.errors import UserError

from . import checkpoints
from .conftest import model, randomised

LITE = "tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # all paths are relative to the project's folder


def assert_equal(found: Tensor, wanted: Tensor) -> None:
    """But for rounding: the order of sums depends on how the weights lie in memory."""
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert wanted.std() > 0


def prepared(backbone: str, source: str, raw: Path, **changes: Any) -> Segmenter:
    """A network whose backbone went through the prepared file."""
    section = model(backbone=backbone, weights=source, **changes)
    weights.prepare_backbone(section, raw)
    return build(section, 3, paths.backbone_weights(backbone), drop_path=0.1).eval()


def description(path: Path) -> dict[str, Any]:
    return tensors.read(path, "backbone")[1]


def renamed_as_in_the_wheel(whole: nn.Module) -> dict[str, Tensor]:
    """The same layers in the same order, under names that say nothing."""
    return {f"_layer{i}.{key.rpartition('.')[2]}": v for i, (key, v) in enumerate(whole.state_dict().items())}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A stand-in for the default backbone's wheel lies in data/weights/raw; returns its classifier."""
    whole = randomised(timm.create_model(LITE))
    publish(renamed_as_in_the_wheel(whole), tmp_path, monkeypatch)
    return whole


def publish(state: dict[str, Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.save(state, folder / "inner.pth")
    stage.RAW.mkdir(parents=True, exist_ok=True)
    path = stage.RAW / "lite_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "inner.pth", "lite/inner.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    inner = hashlib.sha256((folder / "inner.pth").read_bytes()).hexdigest()
    release = weights.WeightsWheel(Wheel("lite-weights", "1.0", digest), "lite/inner.pth", inner)
    monkeypatch.setitem(weights.WHEELS, LITE, release)
    return path


class Params:
    """As much of the settings as the stage reads."""

    def __init__(self, section: Any) -> None:
        self.model = section


def test_wheel_gives_the_classifier_s_features(wheel: nn.Module) -> None:
    section = model(backbone=LITE, weights="wheel")
    stage.run(Params(section))
    path = paths.backbone_weights(LITE)
    network = build(section, 3, path, drop_path=0.1).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        last = network.features(image)[-1]
        wanted = wheel.forward_features((image - 0.5) / 0.5)
        assert_equal(wheel.bn2(wheel.conv_head(last)), wanted)
    source = description(path)["source"]
    assert source["kind"] == "wheel"
    assert (source["package"], source["sha256"]) == ("lite-weights", weights.WHEELS[LITE].package.sha256)
    first = path.read_bytes()
    stage.run(Params(section))
    assert path.read_bytes() == first


def test_wheel_with_other_layers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = renamed_as_in_the_wheel(timm.create_model(LITE))
    path = publish(dict(reversed(state.items())), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"inner\.pth: does not fit .* expected conv_stem\.weight"):
        prepared(LITE, "wheel", path)
    first, *_, later = list(state)[:7]  # two convolutions of unlike shapes
    path = publish(state | {first: state[later], later: state[first]}, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"expected conv_stem\.weight \(32, 3, 3, 3\)"):
        prepared(LITE, "wheel", path)
    path = publish(dict(list(state.items())[:-1]), tmp_path, monkeypatch)
    with pytest.raises(UserError, match="contains 246 tensors, but tf_efficientnet_lite0 has 247"):
        prepared(LITE, "wheel", path)


def test_backbones_without_a_wheel_are_told_the_alternatives() -> None:
    with pytest.raises(UserError, match=r"only .* tf_efficientnet_lite0 and mobilenetv2_100, not for resnet50.*timm"):
        stage.run(Params(model(backbone="resnet50", weights="wheel")))


def test_none_leaves_the_random_start() -> None:
    network = prepared("mit_b0", "none", Path("unused"))
    path = paths.backbone_weights("mit_b0")
    assert description(path)["source"]["kind"] == "none"
    assert not tensors.read(path, "backbone")[0]
    assert network.backbone.patch_embed.proj.weight.std() > 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", ["official", "hugging_face"])
def test_a_path_to_a_mix_transformer(tmp_path: Path, form: str, suffix: str) -> None:
    theirs = randomised(MixTransformer("mit_b0"))
    state, path = getattr(checkpoints, form)(theirs.state_dict()), tmp_path / f"mit_b0{suffix}"
    torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
    network = prepared("mit_b0", str(path), path)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        for found, wanted in zip(network.features(image), theirs((image - network.mean) / network.std), strict=True):
            assert_equal(found, wanted)
    source = description(paths.backbone_weights("mit_b0"))["source"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto"])  # the second's names are folded by timm
def test_a_path_to_a_timm_classifier(tmp_path: Path, backbone: str) -> None:
    whole = randomised(timm.create_model(backbone, num_classes=10))
    torch.save({"model": whole.state_dict()}, tmp_path / "own.pth")
    network = prepared(backbone, str(tmp_path / "own.pth"), tmp_path / "own.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = whole.forward_intermediates((image - network.mean) / network.std, intermediates_only=True, indices=1)
        assert_equal(network.features(image)[-1], wanted[-1])


def test_a_trained_network_can_lend_its_backbone(tmp_path: Path) -> None:
    lender = randomised(build(model(), 7, None, drop_path=0.0))
    saved.save(tmp_path / "student.safetensors", lender, {})
    network = prepared("mit_b0", "student.safetensors", tmp_path / "student.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(network.backbone.parameters(), lender.backbone.parameters(), strict=True)
    )


class Runs:
    """Pickles into a call."""

    def __reduce__(self) -> Any:
        return print, ("code in a checkpoint was run",)


def test_unfit_checkpoints_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = checkpoints.official(MixTransformer("mit_b0").state_dict())
    torch.save(good, tmp_path / "good.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:5000])
    torch.save({"x": Runs()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(good | {"odd": torch.ones(1)}, tmp_path / "extra.pth")
    for name, words in {
        "short.pth": "truncated",
        "code.pth": "contains no tensors",
        "list.pth": "contains a list",
        "extra.pth": "odd is unknown",
        "absent.pth": "no such file",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            prepared("mit_b0", name, tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "was run" not in capsys.readouterr().out
    assert not paths.backbone_weights("mit_b0").exists()


def test_timm_out_of_reach_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def unreachable(name: str, **options: Any) -> nn.Module:
        if options.get("pretrained"):
            raise OSError("cannot find\nthe host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"resnet18 cannot be downloaded \(cannot find the host\).* wheel .* none"):
        prepared("resnet18", "timm", Path("cache"))
    with pytest.raises(UserError, match=r"official mit_b1\.pth"):
        prepared("mit_b1", "timm", Path("cache"))


def test_timm_weights_say_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def downloaded(name: str, *, pretrained: bool = False, cache_dir: Any = None, **options: Any) -> nn.Module:
        network = create(name, **options)
        return network.apply(lambda module: nn.init.ones_(module.weight) if hasattr(module, "weight") else None)

    monkeypatch.setattr(timm, "create_model", downloaded)
    network = prepared("resnet18", "timm", Path("cache"))
    assert bool((network.backbone.conv1.weight == 1).all())
    assert len(description(paths.backbone_weights("resnet18"))["source"]["sha256"]) == 64


def test_a_stale_prepared_file_is_not_taken(tmp_path: Path) -> None:
    weights.prepare_backbone(model(), Path("unused"))
    path = paths.backbone_weights("mit_b0")
    with pytest.raises(UserError, match=r"model\.weights = none, but params\.yaml has mit_b0\.pth.*download --weights"):
        build(model(weights="mit_b0.pth"), 3, path, drop_path=0.0)
    with pytest.raises(UserError, match=r"model\.backbone = mit_b0, but params\.yaml has mit_b1"):
        build(model(backbone="mit_b1"), 3, path, drop_path=0.0)
    with pytest.raises(UserError, match="no such file; run `python -m dualteacher download --weights`"):
        build(model(), 3, tmp_path / "absent.safetensors", drop_path=0.0)


def test_a_wheel_whose_member_was_swapped_is_refused(wheel: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    release = dataclasses.replace(weights.WHEELS[LITE], member_sha256="0" * 64)
    monkeypatch.setitem(weights.WHEELS, LITE, release)
    with pytest.raises(UserError, match=r"lite/inner\.pth does not have the expected sha256"):
        stage.run(Params(model(backbone=LITE, weights="wheel")))
