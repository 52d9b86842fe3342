"""dvc.yaml, made from the contracts.

A stage of the grid is a DVC matrix, which is a plain product. The cells beside the product (`grid.also`) need stages of
their own: the same stage over another matrix. One resolved list of cells would need a file made from params.yaml, and
`dvc exp run -S 'grid.seed=[0,1,2]'` changes params.yaml alone: the list would be stale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dualteacher.system import paths
from dualteacher.workflow.contracts import BY_STAGE, CONTRACTS, Contract

HEAD = """\
# The pipeline for DVC: `dvc repro` runs it all, `dvc status` says what it would run.
# Made by `make code-deps` from dualteacher/workflow/contracts.py and the package's imports. Snakefile and workflow/ run
# the same commands on the same files; tests/workflow holds the two together.
stages:
"""
ALSO = """\
  # Beside the product: the same stages for `grid.also`. A matrix is a plain product, so each kind needs its own.
"""
PLOTS = """\
plots:
  - results/report/curves.csv:
      template: curves
      x: step
      y: val_miou
      title: Validation mIoU
"""
EXTRAS = {"bound": ("partition", "warmup", "train", "evaluate"), "ablation": ("train", "evaluate")}
COMMENTS = {
    "download": "# the whole folder: a new or changed photo is noticed",
    "report": "# stands for all cells' files, which cannot be listed here; what the report reads under data/ made them",
}


def text(sources: Mapping[str, Sequence[str]]) -> str:
    """The file's text; sources: of each stage."""
    blocks = ["\n".join(_stage(contract, sources[contract.stage])) + "\n" for contract in CONTRACTS]
    also = [
        f"  {stage}_{kind}:\n    <<: *{stage}\n" + "".join(f"{line}\n" for line in _matrix(BY_STAGE[stage], kind))
        for kind, stages in EXTRAS.items()
        for stage in stages
    ]
    *stages, report = blocks
    return HEAD + "\n".join([*stages, ALSO + "\n".join(also), report]) + "\n" + PLOTS


def _stage(contract: Contract, sources: Sequence[str]) -> Iterator[str]:
    anchored = any(contract.stage in stages for stages in EXTRAS.values())
    yield f"  {contract.stage}:{f' &{contract.stage}' if anchored else ''}"
    if contract.wildcards:
        yield from _matrix(contract)
    options = "".join(f" --{name} ${{item.{name}}}" for name in contract.wildcards)
    yield f"    cmd: python -m dualteacher {contract.command}{options}"
    yield "    deps:"
    yield from (f"      - {path}" for path in _inputs(contract))
    yield from (f"      - {path}" for path in sources)
    yield "    params:"
    yield from (f"      - {_filled(key)}" for key in contract.params)
    yield "    outs:"
    yield from (f"      - {_filled(path)}" for path in contract.outputs if path != paths.SUMMARY)
    if paths.SUMMARY in contract.outputs:
        yield f"      - {paths.FIGURES}"
        yield "    metrics:"
        yield f"      - {paths.SUMMARY}"


def _matrix(contract: Contract, kind: str | None = None) -> Iterator[str]:
    """A stage's wildcards and where their values stand: in the grid, or for a kind of `grid.also`."""
    yield "    matrix:"
    for name in contract.wildcards:
        extra = kind is not None and name in ("partition", "method")
        yield f"      {name}: ${{grid.{f'also.{kind}.' if extra else ''}{name}}}"


def _inputs(contract: Contract) -> Iterator[str]:
    comment = f" {COMMENTS[contract.stage]}" if contract.stage in COMMENTS else ""
    if contract.stage == "download":
        yield "${watched}" + comment
    elif contract.stage == "report":
        yield f"{paths.RUNS}{comment}"
    else:
        yield from map(_filled, contract.inputs)


def _filled(pattern: str | Path) -> str:
    """{dataset} → ${item.dataset}; {model.backbone} → ${model.backbone}."""
    return re.sub(r"\{([\w.]+)\}", lambda m: f"${{{m[1]}}}" if "." in m[1] else f"${{item.{m[1]}}}", str(pattern))
