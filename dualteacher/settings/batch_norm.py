"""Detect batches too small for batch normalisation (two values per channel) before training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualteacher.settings.reader import Settings

COARSEST = 32  # stride of the coarsest feature map of a SegFormer head's backbone
WITHOUT = ("mit_", "vit_", "deit", "eva", "swin")  # start of the names of backbones without batch normalisation
NORMALISED = "batch"  # teachers that normalise with the statistics of the current batch


def too_small(settings: Settings) -> str | None:
    """Why training would fail, with the settings concerned; None if batches are large enough.

    Networks without batch normalisation on the coarsest feature map (MiT, ViT, Swin) accept any crop.
    """
    model, batch, processes = settings.model, settings.batch, settings.runtime.processes
    if model.architecture == "deeplabv3plus":
        where = "the image pooling of model.architecture = deeplabv3plus leaves one value per image"
    elif batch.crop > COARSEST or model.backbone.startswith(WITHOUT) or (model.sync_norm and processes > 1):
        return None
    else:
        where = f"batch.crop = {batch.crop} leaves one value per image at stride {COARSEST}"
    used = [settings.methods[name] for name in settings.grid.methods]
    seen = {
        "labelled": settings.warmup.steps != 0 or any(method.kind == "supervised" for method in used),
        "unlabelled": any(getattr(method, "normalisation", None) == NORMALISED for method in used),
    }
    passes = batch.accumulate * processes
    for key, alone in seen.items():
        if alone and getattr(batch, key) // passes == 1:
            larger = "" if model.architecture == "deeplabv3plus" else f", or batch.crop to more than {COARSEST}"
            return (
                f"batch.{key} = {getattr(batch, key)} gives one image per pass (batch.accumulate = {batch.accumulate},"
                f" runtime.processes = {processes}), and {where}: batch normalisation needs two;"
                f" raise batch.{key} to {2 * passes} or more{larger}"
            )
    return None
