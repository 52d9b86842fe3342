"""examples/quickstart.ipynb runs as it is committed.

`python -m tests.api.test_notebook` runs it and writes its outputs into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"


def executed(folder: Path) -> Any:
    """The notebook with the outputs of a run in `folder`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def outputs(notebook: Any) -> list[dict[str, Any]]:
    """What the cells show: text and pictures, without progress bars."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [dict(output["data"]) for output in shown if "data" in output]


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = executed(tmp_path)
    pictures = [data for data in outputs(notebook) if "image/png" in data]
    texts = [data["text/plain"] for data in outputs(notebook) if "image/png" not in data]
    assert len(pictures) == 2 and len(texts) == 4
    assert "3 classes: dark, vivid, pale" in texts[0] and texts[-1] == "True"
    assert int(texts[2].strip("'").partition("%")[0]) > 60, "more than a network that has learnt nothing"
    assert (tmp_path / "student.safetensors").is_file()
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert [set(data) for data in outputs(kept)] == [set(data) for data in outputs(notebook)], (
        "write them anew: see the top of this file"
    )


def keep() -> None:
    """Write the notebook with its outputs, without progress bars and times."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    for cell in notebook.cells:
        cell["metadata"] = {}
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output["output_type"] != "stream"]
    notebook["metadata"].pop("language_info", None)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    keep()
