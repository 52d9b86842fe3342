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
    """Run the Numba kernels of training and evaluation once; Numba keeps them. GPUs do not use them."""
    import torch

    if torch.cuda.is_available():
        return
    from dualteacher.core import upsampling
    from dualteacher.core.upsampling import numba_kernels

    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    label = torch.zeros(1, 16, 16, dtype=torch.int64)
    upsampling.cross_entropy_sum(logits, label)[0].backward()
    upsampling.label_and_confidence(logits, (16, 16))
    found = upsampling.argmax(logits, (16, 16)).flatten()
    target, counts = torch.zeros(256, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    numba_kernels.count_pairs(target.numpy(), found.numpy(), 2, 255, counts.numpy())


if __name__ == "__main__":
    {"bytecode": bytecode, "kernels": kernels}[sys.argv[1]]()
