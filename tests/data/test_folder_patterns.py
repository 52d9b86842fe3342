"""Images and masks in a folder of each scene: `*/images` and `*/masks` in params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import described, mask, photo, put

from dualteacher.data.formats import folder_patterns
from dualteacher.data.sources.folder import Folder
from dualteacher.labelling import acceptance
from dualteacher.system.errors import UserError


def test_keys_there_and_back() -> None:
    assert folder_patterns.relative("a/images/b/1.png", "*/images") == "a/b/1.png"
    assert folder_patterns.relative("a/masks/1.png", "*/images") is None
    assert folder_patterns.relative("x/1.png", ".") == "x/1.png"
    assert folder_patterns.filled("*/masks", "a/b/1.png") == "a/masks/b/1.png"
    with pytest.raises(UserError, match=r"1\.png: no folder for \* in \*/masks"):
        folder_patterns.filled("*/masks", "1.png")


def test_accepted_masks_go_into_the_scene(tmp_path: Path) -> None:
    for scene in "abc":
        for i in range(2):
            put(tmp_path / f"{scene}/images/{i}.png", photo(i))
            if i or scene == "a":
                put(tmp_path / f"{scene}/masks/{i}.png", mask(i))
    wanted = described(tmp_path, images="*/images", masks="*/masks", block="folder")
    layout = Folder(wanted).look().layout
    entries = [*layout.train, *layout.val]
    assert {entry.image_id: entry.mask for entry in entries} == {
        "a/images/0": "a/masks/0.png", "a/images/1": "a/masks/1.png", "b/images/0": None,
        "b/images/1": "b/masks/1.png", "c/images/0": None, "c/images/1": "c/masks/1.png",
    }  # fmt: skip
    assert {entry.block for entry in layout.train}.isdisjoint(entry.block for entry in layout.val)
    item = acceptance.find("b/images/0", {entry.image_id: entry for entry in entries}, wanted)
    move = acceptance.plan_move(item, b"", wanted)
    assert move.mask == tmp_path / "b/masks/0.png" and move.target == move.image == tmp_path / "b/images/0.png"
