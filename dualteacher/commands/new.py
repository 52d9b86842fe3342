"""Write the files of a project that uses the installed package, outside a clone (`new`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from dualteacher.system import files
from dualteacher.system.errors import UserError
from dualteacher.workflow import dvc_yaml, presets, skeleton, sources, stamps

CODE = "# The files that each stage depends on for its code. Written by `dualteacher new`.\n"
DVC = """\
# The pipeline for DVC: `dvc repro` runs it, `dvc status` shows what would run.
# Written by `dualteacher new`. workflow/ runs the same commands on the same files.
stages:
"""


def run(folder: Path, preset: str | None) -> None:
    """Write a new project. UserError if `folder` is not empty (.git aside) or there is no such preset."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; give the name of a new folder")
    present = sorted(path.name for path in folder.iterdir() if path.name != ".git") if folder.is_dir() else []
    if present:
        raise UserError(
            f"{folder}: not empty (it contains {present[0]}); give a new folder, or --update to update a project"
        )
    preset = preset or presets.DEFAULT
    params = presets.text(preset, skeleton.home() / presets.FOLDER)  # before anything is written
    _copy(folder, skeleton.OWNED)
    _release(folder)
    files.update_text(folder / presets.PARAMS, params)
    print(f"{folder}: a new project with the settings of the preset {preset}. Next:")
    print(f"  cd {folder}")
    print("  git init                            # DVC needs a repository")
    print("  python -m dualteacher init PHOTOS   # for your own images; else skip this")
    print("  snakemake --cores all               # or: dvc repro")


def update(folder: Path) -> None:
    """Bring a project up to date with the installed package. The owner's files stay: skeleton.OWNED, params.yaml."""
    if not (folder / stamps.FOLDER).is_dir():
        raise UserError(f"{folder}: no project written by `dualteacher new` (no folder {stamps.FOLDER})")
    changed = _release(folder)
    for name in changed:
        print(f"{folder / name}: updated")
    if not changed:
        print(f"{folder}: up to date")


def _copy(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Copy files of the skeleton; the names of those that differed."""
    home, changed = skeleton.home(), []
    for name in skeleton.files(home, patterns):
        target = folder / name
        if not target.exists() or target.read_bytes() != (home / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home / name, target)
            changed.append(name)
    return changed


def _release(folder: Path) -> list[str]:
    """Write the files that depend on the package's version; the names of those that differed."""
    changed = _copy(folder, skeleton.RELEASED)
    code = stamps.lists()
    methods = [stamps.of_method(Path(name).stem) for name in sources.method_files()]
    texts = {
        **stamps.texts(),
        "workflow/code.yaml": CODE + yaml.safe_dump(dict(code), sort_keys=False, default_flow_style=False),
        "dvc.yaml": dvc_yaml.text({**code, "train": [*code["train"], *methods]}, DVC),
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if files.update_text(folder / name, text):
            changed.append(name)
    for old in (folder / stamps.FOLDER).rglob("*.txt"):
        if old.relative_to(folder).as_posix() not in texts:  # a stage or method that is no more
            old.unlink()
    return changed
