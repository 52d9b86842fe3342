"""The official lists: fetched at their commit, verified, and mapped to image ids whatever their oddities."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import known_lists
from web import Site, serving

from dualteacher import settings
from dualteacher.data import official_lists
from dualteacher.data.sources import published
from dualteacher.system.errors import UserError
from dualteacher.workflow import presets

A, B, C = "ADE_train_00000001", "ADE_train_00000002", "ADE_train_00000003"


@pytest.mark.parametrize(
    "text",
    [
        f"images/training/{A}.jpg annotations/training/{A}.png\nimages/training/{B}.jpg annotations/training/{B}.png\n",
        f"/images/training/{A}.jpg\n/images/training/{B}.jpg",
        f"{A}\n\n{B}\n{B}\n",
        f"  x/{A}.png\ty/{A}.png\r\nx/{B}.png\r\n",
        f"leftImg8bit/train/aachen/{A}_leftImg8bit.png gtFine/{A}_gtFine_labelTrainIds.png\n"
        f"leftImg8bit/train/aachen/{B}_leftImg8bit.png gtFine/{B}_gtFine_labelTrainIds.png\n",
    ],
    ids=["pairs", "slash", "blank and doubled", "spaces", "cityscapes"],
)
def test_the_stem_names_the_image(text: str) -> None:
    assert official_lists.ids(text) == [A, B]


@given(st.lists(st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True), unique=True, max_size=20), st.booleans())
def test_ids_survive_any_spelling(ids: list[str], slash: bool) -> None:
    ids = [image_id for image_id in ids if not image_id.endswith("_leftImg8bit")]
    lines = [f"{'/' * slash}a/{image_id}.jpg b/{image_id}.png" for image_id in ids]
    assert official_lists.ids("\n\n".join(lines)) == ids


def test_a_list_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = known_lists(monkeypatch, "ade20k", {"some": (f"{A}\n", f"{B}\n{C}\n")}, {})
    official = official_lists.official("ade20k", "some")
    path = tmp_path / official.labelled.name
    with pytest.raises(UserError, match="run the download stage"):
        official_lists.read(tmp_path, official.labelled)
    path.write_text(served["some/labelled.txt"])
    assert official_lists.read(tmp_path, official.labelled) == [A]
    path.write_text(f"{C}\n")
    with pytest.raises(UserError, match=r"not some/labelled\.txt of somebody/code at cccccccc; delete it"):
        official_lists.read(tmp_path, official.labelled)


def test_lists_are_fetched_at_their_commit_and_a_second_address_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = known_lists(monkeypatch, "ade20k", {"some": (f"{A}\n", f"{B}\n")}, {})
    with serving(Site()) as site:
        addresses = tuple(f"{site.address}/{host}/{{repository}}/{{commit}}/{{path}}" for host in ("gone", "here"))
        monkeypatch.setattr(published, "RAW_ADDRESSES", addresses)
        for path, text in served.items():
            site.put(f"/here/somebody/code/{'c' * 40}/{path}", text.encode())
        for archive in published.list_archives("ade20k", partitions=True):
            archive.fetch(tmp_path)
    official = official_lists.official("ade20k", "some")
    assert official_lists.read(tmp_path / "lists", official.unlabelled) == [B]


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "complaint"),
    [
        ([A, B], [B, C], "1 images are both labelled and unlabelled: ADE_train_00000002"),
        ([A, "other"], [B, C], "1 images are not in the prepared data: other"),
        ([A], [B], "1 images of the prepared data are in neither list: ADE_train_00000003"),
    ],
)
def test_coverage_and_disjointness(labelled: list[str], unlabelled: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        official_lists.check("some", labelled, unlabelled, [A, B, C])
    official_lists.check("some", [C], [A, B], [A, B, C])


def test_every_list_of_the_table_is_complete_and_has_a_valid_name() -> None:
    total = 0
    for source, table in official_lists.known().items():
        names = official_lists.names(source)
        pairs = [official_lists.official(source, name) for name in names]
        files = [file for pair in pairs for file in (pair.labelled, pair.unlabelled) if file is not None]
        files += [official_lists.images(source, split) for split in table["images"]]
        hashes = [file.sha256 for file in files if file.sha256 is not None]
        assert len(set(hashes)) == len(hashes) and len({file.name for file in files}) == len(files)
        assert all(len(digest) == 64 for digest in hashes)
        assert all(len(file.commit) == 40 and file.bytes > file.lines for file in files)
        assert all(pair.unlabelled is not None for pair in pairs if pair.labelled.sha256 is not None)
        total += len(files)
        for name in names:
            settings.Partition(fraction=None, count=None, list=name, held_out=None)
    assert total == 55


def test_a_list_without_a_known_hash_is_compared_by_size_and_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ADE20K and COCO lists of UniMatch and UniMatch V2, the labelled images are all that is fetched."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    text = f"{A}\n{B}\n"
    file = {"repository": "else/where", "path": "l.txt", "sha256": None, "bytes": len(text), "lines": 2}
    partitions = {"some": {"labelled": file, "unlabelled": None}}
    table = {"ade20k": {"repository": "x/y", "commit": "c" * 40, "partitions": partitions, "images": {}}}
    monkeypatch.setattr(official_lists, "known", lambda: table)
    official = official_lists.official("ade20k", "some")
    with serving(Site()) as site:
        monkeypatch.setattr(published, "RAW_ADDRESSES", (f"{site.address}/{{repository}}/{{commit}}/{{path}}",))
        (archive,) = published.list_archives("ade20k", partitions=True)
        site.put(f"/else/where/{'c' * 40}/l.txt", text.encode() + b"more")
        with pytest.raises(UserError, match=f"offers {len(text) + 4} bytes, expected {len(text)}"):
            archive.fetch(tmp_path)
        site.put(f"/else/where/{'c' * 40}/l.txt", text.encode())
        path = archive.fetch(tmp_path)
        assert archive.fetch(tmp_path) == path and len(site.requests) == 2
    assert official_lists.read(tmp_path / "lists", official.labelled) == [A, B]
    path.write_text(text.replace(B, A))
    with pytest.raises(UserError, match=r"not l\.txt of else/where at cccccccc"):
        official_lists.read(tmp_path / "lists", official.labelled)


def test_an_unknown_list_is_refused_with_the_known_ones() -> None:
    raw = settings.parse(presets.load("tiny", Path(__file__).parents[2] / "presets")).model_dump(
        mode="json", exclude_none=False
    )
    raw["datasets"] = {"voc": {"source": "voc", "protocol": "classic", "archive": None, "sbd": None, "lists": True}}
    raw["partition"] = {"some": {"fraction": None, "count": None, "list": "classic_93", "held_out": None}}
    raw["grid"] |= {"dataset": ["voc"], "partition": ["some"]}
    with pytest.raises(
        UserError, match=r"partition\.some\.list: .* no official list 'classic_93'; available: classic_92, "
    ):
        settings.parse(raw)
    raw["partition"]["some"]["list"] = 92  # YAML's idea of a number
    with pytest.raises(UserError, match=r"partition\.some\.list = 92"):
        settings.parse(raw)
