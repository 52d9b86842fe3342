"""However a training program wraps its weights, all of the backbone's tensors are loaded, or one line refuses."""

from __future__ import annotations

import argparse
import collections
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from dualteacher.data.channels import RGB, Channels
from dualteacher.evaluation import card
from dualteacher.models import conversion, foreign_checkpoints, saved, tensors, weights
from dualteacher.models.mix_transformer import MixTransformer
from dualteacher.models.segmenter import Segmenter, build
from dualteacher.stages import weights as stage
from dualteacher.system import paths
from dualteacher.system.errors import UserError

from . import checkpoints as published
from .conftest import model, randomised
from .test_weights import Params

NET = "test_efficientnet"  # timm's own for tests: 84,000 parameters
TENSORS = 68  # and 12 counters
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net() -> State:
    """A classifier of that architecture."""
    return randomised(timm.create_model(NET, num_classes=10)).state_dict()


def other() -> State:
    torch.manual_seed(1)
    return randomised(timm.create_model(NET, num_classes=10)).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def loaded(content: Any, name: str = "", file: str = "file.pth", channels: Channels = RGB) -> Segmenter:
    """The network that starts from a file of this content."""
    torch.save(content, file)
    section = model(backbone=NET, weights=file + (f"#{name}" if name else ""))
    stage.run(Params(section))
    return build(section, 3, paths.backbone_weights(NET), drop_path=0.0, seed=0, channels=channels)


def assert_holds(network: Segmenter, state: State) -> None:
    found = network.backbone.state_dict()
    assert len(found) == 80
    assert all(torch.equal(value, state[key]) for key, value in found.items())


HEAD = {"decoder.conv.weight": torch.ones(3, 3), "segmentation_head.0.bias": torch.ones(2)}
WRAPPERS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, ""),
    "timm": (lambda s: {"state_dict": s, "epoch": 3, "arch": "x", "args": argparse.Namespace(lr=0.1)}, "state_dict"),
    "ema": (lambda s: {"state_dict_ema": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, "state_dict_ema"),
    "ema alike": (lambda s: {"state_dict": s, "state_dict_ema": {k: v.clone() for k, v in s.items()}}, "state_dict"),
    "ddp": (lambda s: {"model": under("module.", s)}, "model.module"),
    "torch.compile": (lambda s: under("_orig_mod.", s), ""),
    "compiled in ddp": (lambda s: {"model_state_dict": under("module._orig_mod.", s)}, "model_state_dict.module"),
    "compiled blocks": (lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()}, ""),
    "fsdp": (lambda s: {k.replace("blocks.", "_fsdp_wrapped_module.blocks."): v for k, v in s.items()}, ""),
    "dino": (
        lambda s: {"student": under("module.backbone.", s) | {"module.head.mlp.0.weight": torch.ones(3)}},
        "student.module.backbone",
    ),
    "u2pl": (lambda s: {"model_state": under("module.encoder.", s) | HEAD}, "model_state.module.encoder"),
    "moco": (
        lambda s: {"state_dict": under("module.encoder_q.", s | {"fc.0.weight": torch.ones(3)})},
        "state_dict.module.encoder_q",
    ),
    "lightning": (
        lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
        "state_dict.model",
    ),
    "smp": (lambda s: under("encoder.", s) | HEAD, "encoder"),
    "smp in lightning": (lambda s: {"state_dict": under("model.encoder.", s) | HEAD}, "state_dict.model.encoder"),
    "mmseg": (
        lambda s: {"meta": {"time": "x"}, "state_dict": under("backbone.", s) | {"decode_head.bias": torch.ones(2)}},
        "state_dict.backbone",
    ),
    "list": (lambda s: {"models": [s]}, "models.0"),
    "half": (lambda s: {"net": {k: v.half() if v.is_floating_point() else v for k, v in s.items()}}, "net"),
    "no counters": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, ""),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_weights_are_all_loaded(kind: str, net: State, caplog: pytest.LogCaptureFixture) -> None:
    state = {k: v.half().to(v.dtype) for k, v in net.items()} if kind == "half" else net
    wrap, name = WRAPPERS[kind]
    network = loaded(wrap(state))
    if kind == "no counters":
        state = {k: torch.zeros_like(v) if "num_batches" in k else v for k, v in state.items()}
    assert_holds(network, state)
    assert network.pretrained["network"] == name
    assert network.pretrained["tensors"] == TENSORS
    assert network.pretrained["file"] == "file.pth"


@pytest.mark.parametrize("wrapper", ["student", "teacher.backbone", "model_state.module.encoder"])
def test_safetensors_and_mix_transformers_are_unwrapped_too(wrapper: str) -> None:
    theirs = randomised(MixTransformer("mit_b0")).state_dict()
    for state in (published.official(theirs), published.with_decode_head(published.hugging_face(theirs))):
        safetensors.torch.save_file(under(f"{wrapper}.", state), "mit.safetensors")
        section = model(weights="mit.safetensors")
        stage.run(Params(section))
        found = build(section, 3, paths.backbone_weights("mit_b0"), drop_path=0.0).backbone.state_dict()
        assert all(torch.equal(found[key], value) for key, value in theirs.items())


def test_of_several_networks_one_must_be_named(net: State) -> None:
    teacher = other()
    content = {"student": under("module.backbone.", net), "teacher": under("backbone.", teacher), "epoch": 1}
    with pytest.raises(UserError, match=r"2 different networks .*student\.module\.backbone, teacher\.backbone; name"):
        loaded(content)
    assert not paths.backbone_weights(NET).exists()
    assert_holds(loaded(content, "student"), net)
    assert_holds(loaded(content, "teacher"), teacher)
    assert_holds(loaded(content, "teacher.backbone"), teacher)
    with pytest.raises(UserError, match=r"no network called ema; at its top are student, teacher"):
        loaded(content, "ema")


def test_an_exact_name_wins_over_a_part(net: State) -> None:
    content = {"model": net, "ema.model": other()}
    assert_holds(loaded(content, "model"), net)
    assert_holds(loaded(content, "ema"), other())
    with pytest.raises(UserError, match="2 different networks"):
        loaded({"a.model": net, "b.model": other()}, "model")


def test_a_file_with_the_mark_in_its_own_name(net: State) -> None:
    assert_holds(loaded({"model": net}, file="run#3.pth"), net)
    assert_holds(loaded({"model": net, "ema": other()}, "ema", file="run#3.pth"), other())


UNFIT: dict[str, tuple[Callable[[State], Any], str]] = {
    "empty": (lambda s: {}, "contains no tensors"),
    "settings only": (lambda s: {"epoch": 3, "args": argparse.Namespace()}, "contains no tensors"),
    "numpy": (lambda s: {k: v.numpy() for k, v in s.items()}, "contains no tensors"),
    "a tensor": (lambda s: torch.ones(3), "contains a Tensor, not a mapping"),
    "parts missing": (
        lambda s: {"teacher": {k: v for k, v in s.items() if not k.startswith("blocks.4")}},
        r"fits test_efficientnet: `teacher` comes closest with \d\d of 68 tensors; blocks\.4\.\S+ is missing",
    ),
    "one missing": (
        lambda s: {k: v for k, v in s.items() if k != "bn1.bias"},
        r"it gives 67 of 68 tensors; bn1\.bias is missing$",
    ),
    "another first layer": (
        lambda s: s | {"conv_stem.weight": torch.ones(24, 4, 5, 5)},
        r"67 of 68 tensors; conv_stem\.weight is \(24, 4, 5, 5\), not \(24, 3, 3, 3\)$",
    ),
    "quantised": (lambda s: s | {"bn1.bias": torch.ones(24, dtype=torch.int8)}, "bn1.bias is int8, not float32"),
    "deeper": (lambda s: s | {"blocks.0.9.conv.weight": torch.ones(2)}, r"blocks\.0\.9\.conv\.weight is unknown"),
    "another": (
        lambda s: {"model": timm.create_model("test_convnext").state_dict()},
        r"\d of 68 tensors; .* is missing",
    ),
    "diverged": (
        lambda s: s | {"conv_stem.weight": s["conv_stem.weight"] * float("nan")},
        r"conv_stem\.weight has NaN or infinite values",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_gives_fewer_tensors_is_refused(kind: str, net: State) -> None:
    make, words = UNFIT[kind]
    with pytest.raises(UserError, match=words) as caught:
        loaded(make(net))
    assert str(caught.value).startswith("file.pth: ") and "\n" not in str(caught.value)
    assert not paths.backbone_weights(NET).exists()


FOUR, FIVE = Channels((1, 2, 3, 4)), Channels((4, 3, 2, 8, 12))


def test_weights_for_as_many_channels_as_the_images_have_are_taken_as_they_stand(
    net: State, caplog: pytest.LogCaptureFixture
) -> None:
    stage.logger.propagate = True
    caplog.set_level("INFO")
    four = {"encoder." + k: v for k, v in (net | {"conv_stem.weight": torch.rand(24, 4, 3, 3)}).items()}
    network = loaded(four, channels=FOUR)
    assert_holds(network, {k.removeprefix("encoder."): v for k, v in four.items()})
    assert "68 tensors from file.pth, network encoder, for 4 channels" in caplog.text
    saved.save(Path("student.safetensors"), network, {})
    again = saved.load(Path("student.safetensors"))[0]
    assert torch.equal(again.backbone.conv_stem.weight, four["encoder.conv_stem.weight"])


def test_rgb_weights_are_extended_and_those_for_other_counts_refused(net: State) -> None:
    found = loaded(net, channels=FOUR).backbone.conv_stem.weight
    torch.testing.assert_close(found[:, :3], net["conv_stem.weight"] * 0.75)
    torch.testing.assert_close(found[:, 3], net["conv_stem.weight"].mean(1) * 0.75)
    four = net | {"conv_stem.weight": torch.rand(24, 4, 3, 3)}
    for channels, count in ((FIVE, 5), (RGB, 3)):
        with pytest.raises(UserError, match=rf"^file\.pth: its first layer takes 4 .* images have {count}: ") as caught:
            loaded(four, channels=channels)
        assert "\n" not in str(caught.value)


def test_a_plain_transformer_for_two_channels_at_another_image_size() -> None:
    theirs = randomised(timm.create_model("vit_tiny_patch16_224", in_chans=2, img_size=96)).state_dict()
    torch.save({"state_dict": theirs}, "vit.pth")
    section = model(backbone="vit_tiny_patch16_224", weights="vit.pth", architecture="dpt")
    stage.run(Params(section))
    channels = Channels((3, 1), rgb=False)
    place = paths.backbone_weights("vit_tiny_patch16_224")
    found = build(section, 3, place, drop_path=0.0, channels=channels).backbone.state_dict()
    assert torch.equal(found["model.patch_embed.proj.weight"], theirs["patch_embed.proj.weight"])
    assert found["model.pos_embed"].shape == (1, 197, 192)


def test_a_deeper_network_of_the_same_kind_is_refused() -> None:
    deep = timm.create_model("resnet34").state_dict()
    with pytest.raises(UserError, match=r"layer1\.2\.conv1\.weight is unknown"):
        foreign_checkpoints.find("resnet18", deep, "deep.pth")


class Colour(enum.Enum):
    RED = 1


class EasyDict(dict[str, Any]):
    """A dict with attributes, as configurations are."""

    __getattr__ = dict.__getitem__


class Runs:
    def __reduce__(self) -> Any:
        return print, ("code in a checkpoint was run",)


def test_unknown_classes_stand_aside_and_run_nothing(net: State, capfd: pytest.CaptureFixture[str]) -> None:
    counts: collections.defaultdict[str, list[int]] = collections.defaultdict(list, {"a": [1]})
    network = loaded(
        {
            "args": argparse.Namespace(lr=0.1, mode=Colour.RED),
            "by_enum": {Colour.RED: 1},
            "cfg": EasyDict(a=1, b=EasyDict(c=2)),
            "counts": counts,
            "numpy": np.float64(3.0),
            "path": Path("somewhere"),
            "runs": Runs(),
            "wrapped": EasyDict(net),
        }
    )
    assert_holds(network, net)
    assert network.pretrained["network"] == "wrapped"
    assert "was run" not in capfd.readouterr().out


def test_a_whole_pickled_module_is_read_without_its_code(net: State) -> None:
    whole = timm.create_model(NET, num_classes=10)
    whole.load_state_dict(net)
    assert_holds(loaded({"model": nn.DataParallel(whole)}), net)


def test_a_checkpoint_that_holds_itself(net: State) -> None:
    content: dict[str, Any] = {"model": net}
    content["again"] = content
    assert_holds(loaded(content), net)


def test_where_the_start_came_from_is_said_everywhere(net: State, caplog: pytest.LogCaptureFixture) -> None:
    stage.logger.propagate = True
    caplog.set_level("INFO")
    network = loaded({"student": net, "teacher": other()}, "teacher")
    words = "68 tensors from file.pth, network teacher"
    assert f"{NET}: {words}" in caplog.text
    saved.save(Path("student.safetensors"), network, {})
    again, description = saved.load(Path("student.safetensors"))
    assert description["pretrained"]["network"] == "teacher"
    assert description["pretrained"]["tensors"] == TENSORS
    assert card._pretrained(again) == f"from a checkpoint: {words}"


def test_a_prepared_file_without_tensors_is_no_start() -> None:
    section = model(backbone=NET, weights="gone.pth")
    path = paths.backbone_weights(NET)
    about: dict[str, Any] = {"backbone": NET, "weights": "gone.pth", "source": {"kind": "file"}}
    tensors.write(path, "backbone", {}, about)
    with pytest.raises(UserError, match=r"contains no tensors, .*; run `python -m dualteacher download --weights`"):
        build(section, 3, path, drop_path=0.0)
    about["source"]["tensors"] = TENSORS  # whatever the description says
    tensors.write(path, "backbone", {}, about)
    with pytest.raises(UserError, match=r"do not fit the network: conv_stem\.weight is missing"):
        build(section, 3, path, drop_path=0.0)


def test_a_changed_checkpoint_is_noticed(net: State) -> None:
    loaded(net)
    torch.save(other(), "file.pth")
    section = model(backbone=NET, weights="file.pth")
    with pytest.raises(UserError, match=r"file\.pth has changed since; run `python -m dualteacher download --weights`"):
        build(section, 3, paths.backbone_weights(NET), drop_path=0.0)
    Path("file.pth").unlink()  # another machine may not have it
    assert_holds(build(section, 3, paths.backbone_weights(NET), drop_path=0.0), net)


def test_the_users_own_file_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="this program writes its own file there; put yours elsewhere"):
        model(backbone=NET, weights=f"data/weights/{NET}.safetensors")


def test_counters_are_no_loaded_tensors(net: State) -> None:
    assert conversion.count(net) == sum("num_batches" not in key for key in net)
    assert weights.convert(NET, {"bn1.num_batches_tracked": torch.ones(())}).keys() == {"bn1.num_batches_tracked"}
