"""Look through a dataset before anything is made of it (`check-data`): every image and mask is decoded once."""

from __future__ import annotations

from dualteacher.data import check, sources
from dualteacher.data.fetch import download
from dualteacher.data.sources.folder import Folder
from dualteacher.settings import Settings
from dualteacher.system import paths


def run(settings: Settings, dataset: str) -> bool:
    """Print a table and one line a finding; whether there is no error.

    A folder is looked at as it is now, other sources' archives as the download stage fetched them.
    """
    wanted = settings.datasets[dataset]
    source = sources.choose(wanted)
    if isinstance(source, Folder):
        content: sources.Content = source.look()
    else:
        content = source.open(download.read_manifest(paths.Dataset(dataset).manifest, source.archives()))
    survey = check.Survey(content.classes(), check.leak_level(wanted))
    survey.findings += check.beforehand(content)
    for split in ("val", "train"):  # in this order: see Survey
        for checked in check.run(content, split, f"check {split}"):  # type: ignore[arg-type]
            survey.add(split, checked)
    survey.conclude()
    print(f"{dataset}: {survey.table()}")
    for line in survey.lines():
        print(line)
    errors = len(survey.errors())
    warnings = len(survey.findings) - errors
    print(f"{dataset}: {_number(errors, 'error')}, {_number(warnings, 'warning')}")
    return not errors


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
