"""docs/reference/files.md: what the pipeline writes, with the columns of each table.

The table below is held against the files of a real run by a test, names and types alike; where a module keeps its
columns in a constant (the pack's schema, the history), they are taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dualteacher.data import pack
from dualteacher.models import tensors
from dualteacher.system import paths
from dualteacher.training import history

DATASET = paths.Dataset("DATASET")
SPLIT = paths.Partition("DATASET", "PARTITION", 0)
RUN = paths.Cell("DATASET", "PARTITION", "METHOD", 0)

Columns = dict[str, tuple[str, str]]  # name: (type, meaning)


@dataclass(frozen=True)
class Format:
    """A file: where it lies, who writes it, what it is, and its columns or keys."""

    path: str
    stage: str
    text: str
    columns: Columns = field(default_factory=dict)


def _columns(text: str) -> Columns:
    """Lines "name | type | meaning"."""
    rows = (line.split("|") for line in text.strip().splitlines())
    return {name.strip(): (kind.strip(), meaning.strip()) for name, kind, meaning in rows}


def _names(text: str) -> Columns:
    """Columns whose names say what they are."""
    return dict.fromkeys(text.split(), ("", ""))


def _spelt(path: object) -> str:
    return str(path).replace("seed0", "seedN")


PACK = {
    "image_id": "unique in the file",
    "image": "as published: JPEG or PNG",
    "mask": "PNG of class indices, 255: ignored; null: the image has no mask",
    "height": "pixels",
    "width": "pixels",
    "block": "images of one block are neighbours and go to one side; null: no such thing",
    "sha256": "of all the above",
}
TYPES = {"float64": "double", "Int64": "int64", "string": "text"}  # pandas' names → ours
SCORES = """
iou | double | NaN where the class is absent
accuracy | double | share of its pixels that are found
target_pixels | int64 | that have the class
predicted_pixels | int64 | that were given it
"""
DESCRIPTION = _columns(
    """
format | text | version of the file's format
kind | text | segmenter, a whole network; or backbone
model | mapping | section `model` of the settings
num_classes | int |
stride | int | of the logits, pixels
normalisation | mapping | mean and std, RGB in [0, 1]; done inside the network
pretrained | mapping | the backbone's start: kind, file, sha256, network in it, number of tensors
classes | list | index, name, color of each class
crop | int | side of the training crop, pixels
inference | mapping | section `inference`: how images are prepared
cell | mapping | dataset, partition, method, seed
labelled | int | images trained on with their masks
held_out | int | labelled images that only picked the epoch
unlabelled | int | images trained on without a mask
steps | int | optimiser steps
selected | mapping | by (last or held_out), epoch, step, and where held_out its miou
scores | mapping or null | val_miou, val_pixel_accuracy of these weights while training; null: not validated
parameters | mapping | all settings that the weights depend on
params_fingerprint | text | sha256 of these
train_sha256 | text | of the training pack
partition_sha256 | text | of the partition's table
program | text | with its version
sha256 | text | of tensors and description
"""
)
METRICS = _columns(
    """
dataset | text |
partition | text |
method | text |
seed | int |
miou | number | mean of the classes' IoU, of the weights that are saved
pixel_accuracy | number |
mean_accuracy | number | mean of the classes' accuracy
last_epoch | int or null |
best_miou | number or null | highest of the validations while training: optimistic
best_epoch | int or null |
selected | text | which weights: last or held_out
selected_epoch | int or null |
images | int | validation images with a mask
partition_sha256 | text | of the partition's table
weights_sha256 | text | of student.safetensors
train_sha256 | text | of the training pack
params_fingerprint | text | sha256 of `parameters`
parameters | mapping | all settings that the weights depend on
"""
)
COST = _columns(
    """
seconds | number | of the training loop with its validations
steps | int |
images_per_second | number or null |
peak_memory_bytes | int | of the GPU, or of the process
student_images | int | through a network with gradient
teacher_images | int | only labelled
parameters | int | of all networks that are trained
device | text |
threads | int |
cores | int |
"""
)
PROVENANCE = _columns(
    """
kind | text | generated or official
dataset | text |
partition | text |
seed | int |
unit | text | block or image: what was drawn
labelled | int | images, the held-out ones included
held_out | int |
unlabelled | int |
list_sha256 | text | of the labelled ids: the partition's name in the tables
pack_sha256 | text | of the training pack
classes_missing | list | classes that no labelled image shows
labelled_pixels | mapping | by class
"""
)
STATISTICS = "n, mean, std, low, high (the bootstrap interval), t_low, t_high (Student's t interval)"

FORMATS = [
    Format(_spelt(DATASET.manifest), "download", "the archives: file, bytes, sha256, origin of each",
           _columns("archives | list | one mapping an archive")),
    Format("data/weights/BACKBONE.safetensors", "download --weights", "pretrained backbone, in our own key names"),
    Format(_spelt(DATASET.folder / "{train,val}.arrow"), "prepare",
           f"the images: an uncompressed Arrow IPC file, format {pack.FORMAT}, read through a memory map."
           " Its metadata holds `dualteacher.format`, `.dataset`, `.classes` (JSON) and `.sha256`",
           {entry.name: (str(entry.type), PACK[entry.name]) for entry in pack.SCHEMA}),
    Format(_spelt(DATASET.classes), "prepare", "a list: index, name, color [r, g, b] of each class"),
    Format(_spelt(DATASET.stats), "prepare", "pixels by image and class, where there are any",
           _columns("split | text | train or val\nimage_id | text |\nclass_index | int64 | 255: ignored"
                    "\npixels | int64 |")),
    Format(_spelt(DATASET.findings), "prepare", "what the checks found",
           _columns("skipped | list | images that were left out\nerrors | list | where, text"
                    "\nwarnings | list | where, text")),
    Format(_spelt(DATASET.contact_sheet), "prepare", "images of each class with their masks laid over them"),
    Format(_spelt(SPLIT.table), "partition", "who keeps the mask",
           _columns("image_id | text |\nrole | text | labelled, held_out or unlabelled")),
    Format(_spelt(SPLIT.provenance), "partition",
           "where the partition comes from. A generated one says in addition the `fraction` or `count` asked for and"
           " the block that was cut; an official one its list's repository, commit and sha256", PROVENANCE),
    Format(_spelt(RUN.student), "warmup, train",
           f"the network. Its metadata has one entry, `{tensors.ENTRY}`: JSON with these keys"
           " ([export.md](../export.md))", DESCRIPTION),
    Format(_spelt(RUN.history), "warmup, train", "one row an epoch",
           {c.name: (TYPES.get(c.dtype, c.dtype), c.meaning) for c in history.COLUMNS}),
    Format(_spelt(RUN.cost), "warmup, train", "what it took; of a run's files only this does not repeat to the byte",
           COST),
    Format(_spelt(RUN.alarms), "warmup, train", "signs of collapse ([report.md](../report.md))",
           _columns("alarms | list | name, epoch, step, text of each")),
    Format(_spelt(RUN.calibration), "train", "pseudo-labels of the probe images, twenty bins of confidence",
           _columns("low | double | confidence from …\nhigh | double | … to\npixels | int64 |\nright | int64 | of them"
                    "\nconfidence | double | sum over the pixels")),
    Format(_spelt(RUN.snapshots), "train", "predictions of a few validation images at each validation",
           _columns("epoch | int64 |\nstep | int64 |\nimage_id | text |"
                    "\nprediction | binary | grey PNG of class indices")),
    Format(_spelt(RUN.metrics), "evaluate", "scores, fractions from 0 to 1", METRICS),
    Format(_spelt(RUN.per_class), "evaluate", "scores by class",
           _columns("class_index | int64 |\nclass_name | text |" + SCORES)),
    Format(_spelt(RUN.confusion), "evaluate", "the confusion matrix",
           _columns("target | int64 | class of the mask\nprediction | int64 | class given\npixels | int64 |")),
    Format(_spelt(RUN.per_image), "evaluate", "scores by image, over the classes that its mask shows",
           _columns("image_id | text |\nmiou | double |\npixel_accuracy | double |")),
    Format(_spelt(RUN.pictures), "evaluate", "the gallery's pictures one by one",
           _columns("image_id | text |\nright | double | share of the pixels that are right\nimage | binary | JPEG"
                    "\ntruth | binary | PNG, palette of the classes"
                    "\nprediction | binary | PNG, palette of the classes")),
    Format(_spelt(RUN.gallery), "evaluate", "the same as one picture: image, truth, prediction, errors"),
    Format(_spelt(RUN.model_card), "evaluate", "the weights' description and scores, for people"),
    Format(str(paths.REPORT / "index.html"), "report", "the report ([report.md](../report.md)); one file, no network"),
    Format(str(paths.REPORT / "table.{csv,parquet,md,tex}"), "report",
           "one row for each dataset × partition × method, over seeds. `_mean` and `_std` (n − 1) of each score;"
           f" `difference_`: against the baseline, paired by seed: {STATISTICS}",
           _names("""
dataset partition method seeds labelled_min labelled_max held_out_min held_out_max unlabelled_min
unlabelled_max miou_mean miou_std best_miou_mean best_miou_std pixel_accuracy_mean pixel_accuracy_std
mean_accuracy_mean mean_accuracy_std difference_n difference_mean difference_std difference_low
difference_high difference_t_low difference_t_high student_images teacher_images
seconds images_per_second peak_memory_bytes parameters selected
bound alarms device list list_sha256
""")),
    Format(str(paths.REPORT / "table_seeds.parquet"), "report", "one row a run",
           _names("""
dataset partition method seed labelled held_out unlabelled miou best_miou pixel_accuracy mean_accuracy
last_epoch best_epoch selected validation_images alarms student_images teacher_images seconds
images_per_second peak_memory_bytes parameters device threads list list_sha256 bound difference
""")),
    Format(str(paths.REPORT / "curves.csv"), "report", "the validations of all runs while training",
           _names("""
dataset partition method seed epoch step val_miou
""")),
    Format(str(paths.REPORT / "comparisons.csv"), "report", f"each method against the baseline: {STATISTICS}",
           _names("""
dataset partition method baseline n mean std low high t_low t_high differences
""")),
    Format(str(paths.REPORT / "class_gains.csv"), "report", f"the same by class: {STATISTICS}",
           _names("""
dataset partition method class_index class_name n mean std low high t_low t_high
""")),
    Format(str(paths.REPORT / "calibration.csv"), "report", "expected calibration error of each run's pseudo-labels",
           _names("""
dataset partition method seed pixels confidence accuracy ece
""")),
    Format(str(paths.REPORT / "hardest.csv"), "report", "the validation images with the lowest mIoU",
           _names("""
dataset partition rank image_id mean method miou
""")),
    Format(str(paths.REPORT / "alarms.csv"), "report", "all runs' alarms",
           _names("""
dataset partition method seed alarm epoch step text
""")),
    Format(str(paths.REPORT / "figures/*.{svg,png}"), "report", "every figure of the page"),
    Format(str(paths.SUMMARY), "report", "dataset → partition → method → miou, seeds: what `dvc metrics` and"
           " `dvc exp show` read"),
]  # fmt: skip

HEAD = """# Files

<!-- written by `make reference` from dualteacher/workflow/reference/formats.py, paths.py and the writers' schemas -->

What the pipeline writes. pandas reads the Parquet files, `pyarrow.ipc.open_file` the packs. A word in capitals stands
for a name in `params.yaml`; warm-ups lie in the folder of a method `warmup`. Tables and JSON files below `data/` and
`results/runs/` mostly carry a sha256 of their content (`dualteacher.sha256` in a table's schema, the key `sha256` in
JSON), which their readers check; the packs do so for each image. Masks hold class indices, 255 where there is no class.

What `predict` writes is in [predict.md](../predict.md), what `suggest` writes in [labelling.md](../labelling.md), what
`export` writes in [export.md](../export.md). `logs/` has a log for each job. `.checkpoints/` is the program's own; it
may be removed when nothing is running, and interrupted runs then start anew.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for one in FORMATS:
        text = f"## `{one.path}`\n\nBy `{one.stage}`: {one.text}.\n"
        if all(kind for kind, _ in one.columns.values()) and one.columns:
            rows = [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in one.columns.items()]
            text += "\n".join(["", "| | type | |", "|---|---|---|", *rows, ""])
        elif one.columns:
            text += f"\n{', '.join(f'`{name}`' for name in one.columns)}\n"
        parts.append(text)
    return "\n".join(parts)
