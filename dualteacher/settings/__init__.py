"""params.yaml as typed, validated settings.

There are no defaults: every key is in params.yaml, so the file, and Snakemake's and DVC's record of it, is complete.
Each error is one line with the key, its value and the allowed values.
"""

from dualteacher.settings.base import (
    AtLeastOne,
    Byte,
    Color,
    Count,
    Inside,
    MaskValue,
    Name,
    NotNegative,
    Place,
    Positive,
    Section,
    Share,
)
from dualteacher.settings.datasets import (
    ADE20K,
    COCO,
    SOURCES,
    VOC,
    AnyDataset,
    BlueMarble,
    Cityscapes,
    Folder,
    FolderClass,
    FolderValidation,
    LandCover,
    MapTiles,
    Textures,
)
from dualteacher.settings.evaluation import Evaluate, Inference, Report
from dualteacher.settings.grid import Also, Extra, Grid, Partition
from dualteacher.settings.methods import (
    CPS,
    KINDS,
    AnyMethod,
    DualTeacher,
    FixMatch,
    Matching,
    MeanTeacher,
    Supervised,
    Teacher,
    UniMatch,
    UniMatchV2,
)
from dualteacher.settings.reader import Settings, load, parse
from dualteacher.settings.runtime import Runtime
from dualteacher.settings.training import (
    Augment,
    Batch,
    Jitter,
    Length,
    Loss,
    Mixing,
    Model,
    Optimizer,
    Sampling,
    Train,
    Warmup,
)

__all__ = [
    "ADE20K", "COCO", "CPS", "KINDS", "SOURCES", "VOC", "Also", "AnyDataset", "AnyMethod", "AtLeastOne", "Augment",
    "Batch", "BlueMarble", "Byte", "Cityscapes", "Color", "Count", "DualTeacher", "Evaluate", "Extra", "FixMatch",
    "Folder", "FolderClass", "FolderValidation", "Grid", "Inference", "Inside", "Jitter", "LandCover", "Length", "Loss",
    "MapTiles", "MaskValue", "Matching", "MeanTeacher", "Mixing", "Model", "Name", "NotNegative", "Optimizer",
    "Partition", "Place", "Positive", "Report", "Runtime", "Sampling", "Section", "Settings", "Share", "Supervised",
    "Teacher", "Textures", "Train", "UniMatch", "UniMatchV2", "Warmup", "load", "parse",
]  # fmt: skip
