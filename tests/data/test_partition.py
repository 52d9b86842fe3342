"""Labelled sets: nested within a seed, covering the classes, disjoint by block, reproducible."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dualteacher.data import partition
from dualteacher.data.partition import ImagePool, draw
from dualteacher.system.errors import UserError

quick = hypothesis_settings(max_examples=60, deadline=None)
seeds = st.integers(0, 5)


@st.composite
def images(draw_: st.DrawFn, blocks: bool | None = None, masks: bool = False) -> ImagePool:
    """Up to 60 images with up to 6 classes, some of them rare; in blocks or not, some without a mask."""
    rng = np.random.default_rng(draw_(st.integers(0, 2**32 - 1)))
    n, num_classes = draw_(st.integers(1, 60)), draw_(st.integers(1, 6))
    shares = rng.dirichlet(np.full(num_classes, 0.3), n)
    pixels = (shares * 1000).astype(np.int64) * (rng.random(shares.shape) < rng.random(num_classes))
    has_mask = np.ones(n, bool) if masks else rng.random(n) < draw_(st.sampled_from([0.3, 1.0]))
    in_blocks = draw_(st.booleans()) if blocks is None else blocks
    number = draw_(st.integers(1, n))
    names = [f"block{rng.integers(number)}" if in_blocks else None for _ in range(n)]
    order = rng.permutation(n)
    return ImagePool([f"image{i:03d}" for i in order], names, pixels * has_mask[:, None], has_mask)


def available(of: ImagePool) -> int:
    assume(of.has_mask.any())
    return int(of.has_mask.sum())


@quick
@given(of=images(), seed=seeds, data=st.data())
def test_counts_and_fractions_of_one_seed_are_nested(of: ImagePool, seed: int, data: st.DataObject) -> None:
    most = available(of)
    sizes: list[dict] = [{"count": c} for c in data.draw(st.lists(st.integers(1, most), max_size=3))]
    share = st.floats(0.01, most / len(of.ids))
    sizes += [{"fraction": f} for f in data.draw(st.lists(share, max_size=3))]
    found = sorted((set(draw(of, seed, **size).labelled) for size in sizes), key=len)
    for small, large in itertools.pairwise(found):
        assert small <= large


@quick
@given(of=images(), seed=seeds, data=st.data())
def test_a_count_is_met_exactly_by_images_with_masks(of: ImagePool, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, available(of)))
    drawn = draw(of, seed, count=count)
    with_mask = {i for i, has in zip(of.ids, of.has_mask, strict=True) if has}
    assert len(set(drawn.labelled)) == len(drawn.labelled) == count
    assert set(drawn.labelled) <= with_mask
    assert drawn.labelled == sorted(drawn.labelled)
    parts = parted(of, drawn.labelled)
    assert parts == ({drawn.cut_block} if drawn.cut_block else set())


def parted(of: ImagePool, labelled: list[str]) -> set[str]:
    """Blocks whose images with masks are partly labelled."""
    roles: dict[str, set[bool]] = {}
    for image_id, block, has in zip(of.ids, of.blocks, of.has_mask, strict=True):
        if has and block is not None:
            roles.setdefault(block, set()).add(image_id in labelled)
    return {block for block, found in roles.items() if len(found) == 2}


@quick
@given(of=images(), seed=seeds, data=st.data())
def test_a_fraction_takes_whole_blocks_and_the_nearest_number(of: ImagePool, seed: int, data: st.DataObject) -> None:
    fraction = data.draw(st.floats(0.01, available(of) / len(of.ids)))
    drawn = draw(of, seed, fraction=fraction)
    assert parted(of, drawn.labelled) == set()
    reachable = np.cumsum([len(unit) for unit in partition.order(of, seed)])
    wanted = fraction * len(of.ids)
    assert abs(len(drawn.labelled) - wanted) <= np.abs(reachable - wanted).min() + 1e-9
    if of.unit == "image":
        assert len(drawn.labelled) == max(1, round(wanted)) or abs(len(drawn.labelled) - wanted) == 0.5


@quick
@given(of=images(), seed=seeds)
def test_as_many_units_as_classes_show_every_class(of: ImagePool, seed: int) -> None:
    available(of)
    units = partition.order(of, seed)
    first = [i for unit in units[: of.pixels.shape[1]] for i in unit]
    present = of.pixels[of.has_mask].any(0)
    assert of.pixels[first].any(0).tolist() == present.tolist()


def test_rare_classes_come_first_and_not_by_a_stray_pixel() -> None:
    pixels = np.zeros((100, 3), np.int64)
    pixels[:, 0] = 1000
    pixels[:, 1] = 1  # strays everywhere …
    pixels[[30, 60], 1] = 400  # … and two images that show it
    pixels[77, 2] = 3  # small everywhere
    of = ImagePool([f"image{i:02d}" for i in range(100)], [None] * 100, pixels, np.ones(100, bool))
    for seed in range(10):
        labelled = draw(of, seed, count=2).labelled
        assert "image77" in labelled
        assert {"image30", "image60"} & set(labelled)


def test_few_images_cover_many_classes() -> None:
    five = np.kron(np.eye(5, dtype=np.int64), np.ones((1, 8), np.int64))  # five images show all forty
    pixels = 100 * np.concatenate([np.eye(40, dtype=np.int64), five])
    of = ImagePool([f"image{i:02d}" for i in range(45)], [None] * 45, pixels, np.ones(45, bool))
    assert pixels[[of.ids.index(i) for i in draw(of, 0, count=5).labelled]].any(0).all()


@quick
@given(of=images(), seed=seeds, data=st.data())
def test_neither_time_nor_the_order_of_the_pack_matters(of: ImagePool, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, available(of)))
    order = data.draw(st.permutations(range(len(of.ids))))
    shuffled = ImagePool(
        [of.ids[i] for i in order], [of.blocks[i] for i in order], of.pixels[order], of.has_mask[order]
    )
    assert draw(shuffled, seed, count=count) == draw(of, seed, count=count) == draw(of, seed, count=count)


def test_seeds_differ() -> None:
    of = ImagePool([f"{i:03d}" for i in range(200)], [None] * 200, np.ones((200, 2), np.int64), np.ones(200, bool))
    found = {tuple(draw(of, seed, count=20).labelled) for seed in range(20)}
    assert len(found) == 20
    drawn = [image_id for labelled in found for image_id in labelled]
    assert len(set(drawn)) > 150  # 200 draws of 20: about 176 different images are expected


@quick
@given(of=images())
def test_more_than_there_are_masks_is_refused(of: ImagePool) -> None:
    count = available(of) + 1
    with pytest.raises(UserError, match=rf"count {count}: only {count - 1} of {len(of.ids)} training images"):
        draw(of, 0, count=count)
    if not of.has_mask.all():
        with pytest.raises(UserError, match=r"fraction 1\.0 .* have masks"):
            draw(of, 0, fraction=1.0)


def test_without_masks_there_is_nothing_to_draw() -> None:
    of = ImagePool(["a"], [None], np.zeros((1, 2), np.int64), np.zeros(1, bool))
    with pytest.raises(UserError, match="no training image has a mask"):
        draw(of, 0, count=1)


@quick
@given(of=images(masks=True), seed=seeds)
def test_everything_can_be_labelled(of: ImagePool, seed: int) -> None:
    assert draw(of, seed, fraction=1.0).labelled == sorted(of.ids)


def test_the_file_gives_back_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "seed0.parquet"
    partition.write(path, ["c", "a", "b", "d"], ["d", "b"])
    assert partition.read(path) == (["b", "d"], [], ["a", "c"])
    partition.write(path, ["c", "a", "b", "d"], ["d", "b"], ["d"])
    assert partition.read(path) == (["b"], ["d"], ["a", "c"])
    assert pq.read_table(path).to_pydict()["image_id"] == ["a", "b", "c", "d"]


def test_files_that_are_no_partition_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "seed0.parquet"
    with pytest.raises(UserError, match="no such file; run the partition stage"):
        partition.read(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a partition"):
        partition.read(path)
    for table, why in [
        ({"name": ["a"]}, "not a partition"),
        ({"image_id": ["a"], "role": ["maybe"]}, "a has role 'maybe'; allowed: labelled, held_out, unlabelled"),
        ({"image_id": ["a", "a"], "role": ["labelled", "unlabelled"]}, "listed twice"),
    ]:
        pq.write_table(pa.table(table), path)
        with pytest.raises(UserError, match=why):
            partition.read(path)
