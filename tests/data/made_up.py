"""Small archives in the layouts of the published data sets, with hashes of their own, and lists to match."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dualteacher.data import official_lists
from dualteacher.data.sources import ade20k, cityscapes, coco, voc
from dualteacher.data.sources.published import Download

SIDE = (20, 28)  # H, W


def jpeg(seed: int) -> bytes:
    """A photo of its own."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def png(pixels: np.ndarray, palette: bool = False) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(file, "PNG")
    return file.getvalue()


def stripes(values: Sequence[int]) -> np.ndarray:
    """A mask with a stripe of each value."""
    return np.repeat(np.array(values, np.uint8), -(-SIDE[1] // len(values)))[None, : SIDE[1]].repeat(SIDE[0], 0)


def as_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def as_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Compressed if its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def as_folder(path: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        if name.endswith("/"):
            continue
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def ade20k_members(train: int = 6, val: int = 3) -> dict[str, bytes]:
    members = {"ADEChallengeData2016/objectInfo150.txt": b"Idx\tRatio\n", "ADEChallengeData2016/images/": b""}
    for folder, prefix, number in (("training", "ADE_train_", train), ("validation", "ADE_val_", val)):
        for i in range(1, number + 1):
            name = f"{prefix}{i:08d}"
            members[f"ADEChallengeData2016/images/{folder}/{name}.jpg"] = jpeg(i + 1000 * (folder == "validation"))
            mask = png(stripes([0, i, 150]))
            members[f"ADEChallengeData2016/annotations/{folder}/{name}.png"] = mask
    return members


def small_ade20k(monkeypatch: pytest.MonkeyPatch, train: int = 6, val: int = 3) -> None:
    """As if ADE20K had so many images."""
    splits = {"train": ("training", "ADE_train_", train), "val": ("validation", "ADE_val_", val)}
    monkeypatch.setattr(ade20k, "SPLITS", splits)


FINE, COARSE, VAL = ["2007_000001", "2007_000002"], ["2008_000003", "2008_000004", "2009_000005"], ["2007_000006"]


def voc_members() -> dict[str, bytes]:
    """Two fine masks, three further training images, one validation image, and others that nobody asks for."""
    root = "VOCdevkit/VOC2012"
    members = {f"{root}/ImageSets/Segmentation/{n}.txt": ("\n".join(i) + "\n").encode() for n, i in
               (("train", FINE), ("val", VAL))}  # fmt: skip
    for i, image_id in enumerate([*FINE, *COARSE, *VAL, "2010_000007"]):
        members[f"{root}/JPEGImages/{image_id}.jpg"] = jpeg(i)
    for i, image_id in enumerate([*FINE, *VAL]):
        members[f"{root}/SegmentationClass/{image_id}.png"] = png(stripes([0, i + 1, 255]), palette=True)
    return members


def sbd_members() -> dict[str, bytes]:
    """SBD labels the coarse images, and a fine one otherwise than VOC does."""
    members = {"benchmark_RELEASE/dataset/train.txt": b"\n"}
    for i, image_id in enumerate([*COARSE, FINE[0], "2011_000008"]):
        file = io.BytesIO()
        record = np.zeros((1, 1), [("Boundaries", "O"), ("Segmentation", "O"), ("CategoriesPresent", "O")])
        record[0, 0] = (np.zeros((1, 1)), stripes([0, 10 + i]), np.array([[10 + i]], np.uint8))
        scipy.io.savemat(file, {"GTcls": record}, do_compression=True)
        members[f"benchmark_RELEASE/dataset/cls/{image_id}.mat"] = file.getvalue()
    return members


def small_voc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc, "FINE", len(FINE))
    monkeypatch.setattr(voc, "VALIDATION", len(VAL))
    monkeypatch.setattr(voc, "AUGMENTED", len(FINE + COARSE))


CITIES = {"train": {"aachen": 3, "ulm": 2}, "val": {"lindau": 2}}


def cityscapes_members() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(images, masks), with test images and files of other kinds beside them."""
    images, masks = {"leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png": jpeg(0)}, {"README": b""}
    for split, cities in CITIES.items():
        for city, number in cities.items():
            for i in range(number):
                stem = f"{city}_{i:06d}_000019"
                pixels = np.random.default_rng([i, len(city)]).integers(0, 256, (*SIDE, 3), dtype=np.uint8)
                images[f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"] = png(pixels)
                masks[f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"] = png(stripes([0, 7, 33, 29]))
                masks[f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json"] = b"{}"
    return images, masks


def small_cityscapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cityscapes, "CITIES", CITIES)


COCO_IMAGES = {"train": 4, "val": 2}
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # of the 80 categories


def coco_members() -> dict[str, bytes]:
    """Both splits and their annotations. The first two images of each split show objects, see `coco_objects`."""
    members = {}
    for offset, (split, number) in enumerate(COCO_IMAGES.items()):
        names = {i: f"{i:012d}" for i in range(100 * offset + 7, 100 * offset + 7 + number)}
        members |= {f"{split}2017/{name}.jpg": jpeg(i) for i, name in names.items()}
        content = {
            "images": [{"id": i, "file_name": f"{name}.jpg", "height": SIDE[0], "width": SIDE[1]}
                       for i, name in names.items()],
            "annotations": coco_objects(min(names)),
            "categories": [{"id": i, "name": name} for i, name in zip(COCO_IDS, coco.NAMES.split(", "), strict=True)],
        }  # fmt: skip
        members[f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
        members[f"annotations/captions_{split}2017.json"] = b"{}"
    return members


def coco_objects(first: int) -> list[dict[str, Any]]:
    """In the first image a dog before a person, the person in two parts; in the second a crowd of cars."""
    height, width = SIDE
    rows = {"size": [height, width], "counts": [0, height * 5, height * (width - 5)]}  # five columns
    return [
        {"image_id": first, "category_id": 18, "area": 16.0, "iscrowd": 0, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]},
        {"image_id": first, "category_id": 1, "area": 164.0, "iscrowd": 0,
         "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [12.0, 4.0, 20.0, 4.0, 20.0, 12.0, 12.0, 12.0]]},
        {"image_id": first + 1, "category_id": 3, "area": 100.0, "iscrowd": 1, "segmentation": rows},
    ]  # fmt: skip


def small_coco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "NUMBERS", COCO_IMAGES)


def published(address: str, name: str, content: bytes, algorithm: str) -> Download:
    """The archive as a site publishes it."""
    return Download(name, (address,), hashlib.new(algorithm, content).hexdigest(), algorithm)


def entry(path: str, text: str) -> dict[str, Any]:
    data = text.encode()
    return {
        **{"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        **{"lines": len(official_lists.ids(text))},
    }


def known_lists(
    monkeypatch: pytest.MonkeyPatch, source: str, texts: Mapping[str, tuple[str, str]], splits: Mapping[str, str]
) -> dict[str, str]:
    """Make these the only official lists of `source`; their texts by path in the made-up repository."""
    served: dict[str, str] = {}
    partitions = {}
    for name, pair in texts.items():
        partitions[name] = {}
        for role, text in zip(("labelled", "unlabelled"), pair, strict=True):
            served[f"{name}/{role}.txt"] = text
            partitions[name][role] = entry(f"{name}/{role}.txt", text)
    images = {split: entry(f"{split}.txt", text) for split, text in splits.items()}
    served |= {f"{split}.txt": text for split, text in splits.items()}
    table = {source: {"repository": "somebody/code", "commit": "c" * 40, "partitions": partitions, "images": images}}
    monkeypatch.setattr(official_lists, "known", lambda: table)
    return served
