"""`check-data` draws a contact sheet of a few masks, with the shares of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import described, fill
from PIL import Image

from dualteacher.commands import check_data
from dualteacher.data import contact_sheet
from dualteacher.data.sources.folder import Folder


def test_the_sheet_has_examples_and_the_shares_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Folder(described(fill(tmp_path, labelled=40, without=3)))
    content = source.look()
    examples: dict[str, check_data.Examples] = {}
    for split in ("train", "val"):
        examples[split] = check_data.Examples(contact_sheet.SHOWN[split])
        for job in content.jobs(split):  # type: ignore[arg-type]
            examples[split].add(job())
    texts: list[str] = []
    written = contact_sheet._write
    monkeypatch.setattr(
        contact_sheet, "_write", lambda *given, **more: (texts.append(given[2]), written(*given, **more))
    )
    check_data.draw(tmp_path / "a/sheet.png", "mine", source.classes(), content.channels, examples)
    assert "33 training and 10 validation images, 3 classes" in texts
    names = {text.split("/")[-1] for text in texts if text.startswith(("train ", "val "))}
    assert len(names) == 12 and not names & {"photo40", "photo41", "photo42"}, "images with masks"
    wanted = {split: sum(job().pixels for job in content.jobs(split)) for split in ("train", "val")}  # type: ignore[arg-type]
    shares = " / ".join(f"{wanted[split][1] / wanted[split].sum():.1%}" for split in ("train", "val"))
    assert shares in texts
    assert np.asarray(Image.open(tmp_path / "a/sheet.png")).std() > 10
