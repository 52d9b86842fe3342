"""Take a suggestion's annotations through the readers and writers of two annotation tools, there and back.

Needs a virtual environment of its own with `pip install datumaro label-studio-sdk`: Datumaro is what CVAT reads and
writes COCO with. `python docs/labelling/exchange.py next` writes next/datumaro.json and next/label_studio.json, COCO
both, for `dualteacher accept next --coco …`, which should find every mask unchanged.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import datumaro
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

NAME = "instances_default.json"


def through_datumaro(suggested: Path, scratch: Path) -> Path:
    """COCO → Datumaro → COCO."""
    (scratch / "in/annotations").mkdir(parents=True)
    shutil.copytree(suggested / "images", scratch / "in/images/default")
    shutil.copy(suggested / "annotations.json", scratch / "in/annotations" / NAME)
    read = datumaro.Dataset.import_from(str(scratch / "in"), "coco_instances")
    read.export(str(scratch / "out"), "coco_instances", save_media=False)
    return scratch / "out/annotations" / NAME


def through_label_studio(suggested: Path, scratch: Path) -> Path:
    """COCO → Label Studio's tasks → COCO."""
    tasks = scratch / "tasks.json"
    convert_coco_to_ls(str(suggested / "annotations.json"), str(tasks), image_root_url="images")
    listed = json.loads(tasks.read_text())
    for number, task in enumerate(listed):  # as the tool numbers them
        task["id"] = task["annotations"][0]["id"] = number
    tasks.write_text(json.dumps(listed))
    converter = Converter((scratch / "tasks.label_config.xml").read_text(), project_dir=str(suggested))
    converter.convert_to_coco(str(tasks), str(scratch / "back"), output_image_dir=str(scratch / "none"), is_dir=False)
    return scratch / "back/result.json"


def main() -> None:
    """Both, into the suggestion's folder."""
    suggested = Path(sys.argv[1]).absolute()
    for name, way in (("datumaro", through_datumaro), ("label_studio", through_label_studio)):
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copy(way(suggested, Path(scratch)), suggested / f"{name}.json")
        print(suggested / f"{name}.json")


if __name__ == "__main__":
    main()
