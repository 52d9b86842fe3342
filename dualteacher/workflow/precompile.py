"""Compile what the pipeline's jobs load: `python -m dualteacher.workflow.precompile bytecode|kernels`. Run by `make`.

uv, unlike pip, leaves bytecode to the first import. With PYTHONDONTWRITEBYTECODE, which container images often set, no
import writes any, so each job would compile the same thousands of files again, in seven seconds. The kernels take ten
seconds, and without a cache the first jobs, which start together, each compile them.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

PACKAGE = "dualteacher"
FOLDERS = ("stages", "methods")
ENGINE = ("snakemake.cli", "snakemake.workflow", "snakemake.dag", "snakemake.scheduling.job_scheduler")


def bytecode() -> None:
    """Import the command line, the stages, the methods and Snakemake; Python keeps their bytecode."""
    import_module(f"{PACKAGE}.cli")
    for folder in FOLDERS:
        package = import_module(f"{PACKAGE}.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{PACKAGE}.{folder}.{module.name}")
    for name in ENGINE:
        import_module(name)


def kernels() -> None:
    """Call each Numba kernel once, with the types that training and evaluation use; Numba keeps them."""
    import numpy as np

    from dualteacher.core.upsampling import cpu, numba_kernels

    logits, label = np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 4, 4), np.int64)
    for weight in (None, np.ones((1, 4, 4), np.float32)):
        cpu.cross_entropy(logits, label, weight, 255)
    for with_confidence in (False, True):
        cpu.label_and_confidence(logits, (4, 4), with_confidence)
    cpu.enlarge(logits, (4, 4))
    numba_kernels.count_pairs(np.zeros(4, np.uint8), np.zeros(4, np.int64), 3, 255, np.zeros(11, np.int64))


def kernels_of_jobs() -> None:
    """`kernels`, unless the jobs run on a GPU, which does not use them."""
    import torch

    if not torch.cuda.is_available():
        kernels()


if __name__ == "__main__":
    {"bytecode": bytecode, "kernels": kernels_of_jobs}[sys.argv[1]]()
