"""Mix Transformers compute what was published, and take published weights under any of their names."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dualteacher.models import backbones, conversion
from dualteacher.models.foreign_checkpoints import find
from dualteacher.models.mix_transformer import VARIANTS, MixTransformer
from dualteacher.system.errors import UserError

from . import checkpoints

MILLIONS = {"mit_b0": 3.3, "mit_b1": 13.2, "mit_b2": 24.2, "mit_b3": 44.1, "mit_b4": 60.8, "mit_b5": 81.4}
FORMATS = {
    "official": checkpoints.official,
    "hugging face": checkpoints.hugging_face,
    "hugging face, bare encoder": lambda state: checkpoints.hugging_face(state, prefix=""),
    "hugging face, with head": lambda state: checkpoints.with_decode_head(checkpoints.hugging_face(state)),
    "ours": dict,
}


@cache
def expected(name: str) -> dict[str, Tensor]:
    return backbones.expected(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_the_published_ones(name: str) -> None:
    assert sum(p.numel() for p in expected(name).values()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.06)


@pytest.mark.parametrize(("output_stride", "last"), [(32, (3, 4)), (16, (5, 7))])
def test_maps_lie_at_the_stated_strides(output_stride: int, last: tuple[int, int]) -> None:
    network = MixTransformer("mit_b0", output_stride=output_stride)
    maps = network(torch.rand(2, 3, 70, 101))
    sides = [(18, 26), (9, 13), (5, 7), last]
    assert [tuple(m.shape) for m in maps] == [(2, c, *s) for c, s in zip((32, 64, 160, 256), sides, strict=True)]
    assert network.reductions == (4, 8, 16, output_stride)


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    network = MixTransformer("mit_b3", drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in network.stages for block in stage.blocks]
    assert rates == pytest.approx([0.3 * i / 27 for i in range(28)])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("form", FORMATS)
def test_published_names_are_understood(name: str, form: str) -> None:
    ours = expected(name)
    found = conversion.convert(name, FORMATS[form](ours))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in ours.items()}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_values_arrive_in_their_places(form: str, wrapped: bool) -> None:
    ours = MixTransformer("mit_b0").state_dict()
    content: dict[str, Any] = FORMATS[form](ours)
    if wrapped:  # as mmsegmentation does
        inner = {f"backbone.{key}": value for key, value in content.items()}
        content = {"epoch": 3, "state_dict": inner | {"decode_head.conv_seg.bias": torch.zeros(150)}}
    found = conversion.fit(find("mit_b0", content, "file").state, ours, "file")
    assert all(torch.equal(found[key], value) for key, value in ours.items())


def test_computes_a_mix_transformer() -> None:
    """Against the paper's equations, written plainly on Hugging Face's separate key and value layers."""
    network = MixTransformer("mit_b0").eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a mistake
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        image = torch.randn(2, 3, 64, 96)
        found = network(image)
        wanted = plain_mix_transformer(checkpoints.hugging_face(network.state_dict(), prefix=""), image)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def plain_mix_transformer(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def plane(x: Tensor, height: int, width: int) -> Tensor:
        return x.transpose(1, 2).reshape(len(x), -1, height, width)

    maps = []
    x = image
    for stage, (heads, reduction) in enumerate(zip((1, 2, 5, 8), (8, 4, 2, 1), strict=True)):
        embedding = f"encoder.patch_embeddings.{stage}"
        x = conv(x, f"{embedding}.proj", stride=2 if stage else 4, padding=1 if stage else 3)
        height, width = x.shape[-2:]
        x = norm(tokens(x), f"{embedding}.layer_norm", 1e-5)
        for block in range(2):
            name = f"encoder.block.{stage}.{block}"
            inner = norm(x, f"{name}.layer_norm_1", 1e-6)
            context = inner
            if reduction > 1:
                context = tokens(conv(plane(inner, height, width), f"{name}.attention.self.sr", stride=reduction))
                context = norm(context, f"{name}.attention.self.layer_norm", 1e-5)
            query, key, value = (
                linear(source, f"{name}.attention.self.{layer}").unflatten(-1, (heads, -1)).transpose(1, 2)
                for source, layer in ((inner, "query"), (context, "key"), (context, "value"))
            )
            attention = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
            x = x + linear((attention @ value).transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
            hidden = linear(norm(x, f"{name}.layer_norm_2", 1e-6), f"{name}.mlp.dense1")
            depthwise = conv(
                plane(hidden, height, width), f"{name}.mlp.dwconv.dwconv", padding=1, groups=hidden.shape[-1]
            )
            x = x + linear(F.gelu(tokens(depthwise)), f"{name}.mlp.dense2")
        x = plane(norm(x, f"encoder.layer_norm.{stage}", 1e-6), height, width)
        maps.append(x)
    return maps


def test_another_size_is_refused_by_name_and_shape() -> None:
    theirs = conversion.convert("mit_b0", checkpoints.official(expected("mit_b1")))
    with pytest.raises(
        UserError, match=r"b0\.pth: .*patch_embed\.proj\.weight is \(64, 3, 7, 7\), not \(32, 3, 7, 7\)"
    ):
        conversion.fit(theirs, expected("mit_b0"), "b0.pth")


def test_missing_and_unknown_keys_are_named() -> None:
    ours = MixTransformer("mit_b0").state_dict()
    theirs = checkpoints.hugging_face(ours)
    del theirs["segformer.encoder.block.0.1.attention.self.value.bias"]
    theirs["segformer.encoder.surprise"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        conversion.fit(conversion.convert("mit_b0", theirs), ours, "some/file.bin")
    text = str(caught.value)
    assert text.startswith("some/file.bin: ")
    assert "stages.0.blocks.1.attn.kv.bias is missing" in text
    assert "encoder.surprise is unknown" in text
