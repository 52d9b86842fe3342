"""Refuse settings that batch normalisation cannot train with, such as batches of one value per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualteacher.settings.reader import Settings

COARSEST = {"segformer": 32, "deeplabv3plus": 16, "dpt": 32}  # stride of the coarsest feature map that a head takes
WITHOUT = ("mit_", "vit_", "deit", "eva", "swin")  # start of the names of backbones without batch normalisation
NORMALISED = "batch"  # teachers that normalise with the statistics of the current batch


def unfit(settings: Settings) -> str | None:
    """Why `batch.norm` does not fit the other settings; None if it does."""
    if settings.batch.norm == "frozen" and settings.model.weights == "none":
        return (
            "batch.norm = frozen keeps the statistics of pretrained weights, and model.weights = none has none;"
            " set batch.norm to joint or by_view, or choose pretrained weights"
        )
    return too_small(settings)


def too_small(settings: Settings) -> str | None:
    """Why training would fail, with the settings concerned; None if batches are large enough.

    Networks without batch normalisation on the coarsest feature map (MiT, ViT, Swin) accept any crop.
    """
    model, batch, processes = settings.model, settings.batch, settings.runtime.processes
    coarsest = COARSEST[model.architecture]
    pooled = model.architecture == "deeplabv3plus" and model.head_norm == "batch"
    if pooled:
        where = "the image pooling of model.architecture = deeplabv3plus leaves one value per image"
    elif batch.crop > coarsest or model.backbone.startswith(WITHOUT) or (model.sync_norm and processes > 1):
        return None
    else:
        where = f"batch.crop = {batch.crop} leaves one value per image at stride {coarsest}"
    used = [settings.methods[name] for name in settings.grid.methods]
    by_view = batch.norm == "by_view"
    seen = {
        "labelled": settings.warmup.steps != 0 or any(method.kind == "supervised" or by_view for method in used),
        "unlabelled": any(
            getattr(method, "normalisation", None) == NORMALISED or (by_view and method.kind != "supervised")
            for method in used
        ),
    }
    if batch.norm == "frozen" and not pooled:
        seen["labelled"] = False  # only the backbone has small maps, and its statistics are fixed
    passes = batch.accumulate * processes
    for key, alone in seen.items():
        if alone and getattr(batch, key) // passes == 1:
            other = "set model.head_norm to group" if pooled else f"batch.crop to more than {coarsest}"
            return (
                f"batch.{key} = {getattr(batch, key)} gives one image per pass (batch.accumulate = {batch.accumulate},"
                f" runtime.processes = {processes}), and {where}: batch normalisation needs two;"
                f" raise batch.{key} to {2 * passes} or more, or {other}"
            )
    return None
