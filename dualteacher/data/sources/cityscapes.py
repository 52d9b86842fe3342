"""Cityscapes with fine annotations: two zips that require an account with the publishers.

Either params.yaml names the user's copies (or a folder with leftImg8bit/ and gtFine/), or the publishers' program
csDownload fetches them. Published masks hold 34 label ids; ours hold the 19 scored classes and 255 for the rest.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualteacher import settings
from dualteacher.core.labels import IGNORE
from dualteacher.data.class_table import ClassInfo
from dualteacher.data.fetch import Archive, archives
from dualteacher.data.pack import Sample
from dualteacher.data.sources import SPLITS, Split, published
from dualteacher.system import os_errors
from dualteacher.system.console import logger
from dualteacher.system.errors import UserError

IMAGES, MASKS = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
BY_HAND = "or download both zips from the publishers' site and set their paths in params.yaml (images, masks)"

CITIES: dict[Split, dict[str, int]] = {  # number of images
    "train": {
        **{"aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221},
        **{"erfurt": 109, "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94},
        **{"strasbourg": 365, "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122},
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
}

# label id, name, colour of each class; the other ids of 0…33 are not scored
TABLE: list[tuple[int, str, tuple[int, int, int]]] = [
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
]
ENCODING = published.table(dict.fromkeys(range(34), IGNORE) | {row[0]: i for i, row in enumerate(TABLE)})


@dataclass(frozen=True)
class Package:
    """A zip fetched by csDownload. Implements `fetch.Archive`."""

    name: str

    def describe(self) -> dict[str, str]:
        return {"package": self.name, "program": "csDownload"}

    def fetch(self, folder: Path) -> Path:
        """The zip's path; csDownload resumes a partial download and checks its MD5 sum."""
        target = folder / self.name
        if target.is_file():
            return target
        program = shutil.which("csDownload")
        if program is None:
            raise UserError(
                f"{self.name}: needs an account at www.cityscapes-dataset.com and their program: `python -m pip"
                f" install cityscapesscripts`, log in once with `csDownload -l`, run this again; {BY_HAND}"
            )
        part = folder / "csDownload.part" / self.name
        part.parent.mkdir(parents=True, exist_ok=True)
        logger.info("fetching %s with csDownload", self.name)
        command = [program, "--destination_path", str(part.parent), "--resume", self.name]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode or not part.is_file():
            raise UserError(f"{self.name}: {self._explain(done.stderr, part)}")
        part.replace(target)
        if not any(part.parent.iterdir()):
            part.parent.rmdir()
        return target

    def _explain(self, stderr: str, part: Path) -> str:
        """csDownload's traceback in one line: what happened and what to do."""
        if "EOFError" in stderr:
            return f"csDownload asks for a login: log in once with `csDownload -l` and run this again; {BY_HAND}"
        if "Bad credentials" in stderr:
            return f"csDownload's name or password is wrong: log in again with `csDownload -l`; {BY_HAND}"
        if "MD5 sum" in stderr:
            part.unlink(missing_ok=True)
            return "damaged in transit (wrong MD5 sum); run this again"
        if "No space left" in stderr:
            return os_errors.DISK_FULL
        last = (stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"csDownload failed ({last[:160]}); run this again to resume, {BY_HAND}"


class Cityscapes:
    """Implements `sources.Source`."""

    def __init__(self, options: settings.Cityscapes) -> None:
        self.options = options

    def classes(self) -> list[ClassInfo]:
        return [ClassInfo(name, color) for _, name, color in TABLE]

    def archives(self) -> list[Archive]:
        options = self.options
        images = Package(IMAGES) if options.images is None else published.Local("images", options.images)
        masks = Package(MASKS) if options.masks is None else published.Local("masks", options.masks)
        return [images, masks, *published.list_archives("cityscapes", options.lists)]

    def open(self, paths: Sequence[Path]) -> CityscapesContent:
        images = archives.open_reader(paths[0])
        return CityscapesContent(images, images if paths[0] == paths[1] else archives.open_reader(paths[1]))


class CityscapesContent:
    """Implements `sources.Content`; UserError if images or masks are missing. Ids: 'aachen_000000_000019'."""

    def __init__(self, images: archives.Reader, masks: archives.Reader) -> None:
        self._readers = (images, masks)
        self._files: dict[Split, dict[str, tuple[str, str]]] = {}
        for split in SPLITS:
            found = archives.find(images, rf"(?:^|/)leftImg8bit/{split}/[^/]+/([^/]+)_leftImg8bit\.png$")
            labels = archives.find(masks, rf"(?:^|/)gtFine/{split}/[^/]+/([^/]+)_gtFine_labelIds\.png$")
            _check_cities(found, split, images.path)
            published.complete(f"masks of gtFine/{split}", labels, found, masks.path)
            self._files[split] = {image_id: (found[image_id], labels[image_id]) for image_id in sorted(found)}

    def ids(self, split: Split) -> list[str]:
        return list(self._files[split])

    def samples(self, split: Split) -> Iterator[Sample]:
        images, masks = self._readers
        for image_id, (image_name, mask_name) in self._files[split].items():
            image = images.read(image_name)
            mask = published.relabel(masks.read(mask_name), ENCODING, mask_name)
            yield Sample(image_id, image, mask, *published.image_size(image, image_name))


def _check_cities(found: dict[str, str], split: Split, where: Path) -> None:
    """UserError, with counts by city, if the number of images is not the published one."""
    numbers = Counter(image_id.split("_")[0] for image_id in found)
    wrong = {city for city in CITIES[split].keys() | numbers.keys() if numbers[city] != CITIES[split].get(city, 0)}
    if wrong:
        counts = ", ".join(f"{city} {numbers[city]} of {CITIES[split].get(city, 0)}" for city in sorted(wrong)[:6])
        raise UserError(
            f"{where}: {len(found)} images of leftImg8bit/{split}, expected {sum(CITIES[split].values())} ({counts});"
            f" {published.AGAIN}"
        )
