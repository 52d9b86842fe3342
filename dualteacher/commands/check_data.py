"""Check a dataset before it is prepared (`check-data`): decode every image and mask once."""

from __future__ import annotations

from dualteacher.data import inspection, sources
from dualteacher.data.channels import RGB
from dualteacher.data.fetch import manifest
from dualteacher.data.sources.folder import Folder
from dualteacher.settings import Settings
from dualteacher.system import paths


def run(settings: Settings, dataset: str) -> bool:
    """Print a table and one line per finding; True if there is no error.

    Checks the folder itself for `source: folder`, else the downloaded archives.
    """
    options = settings.datasets[dataset]
    source = sources.choose(options)
    unused: list[str] = []
    if isinstance(source, Folder):
        looked = source.look()
        content: sources.Content = looked
        unused = looked.unused()
    else:
        content = source.open(manifest.read(paths.Dataset(dataset).manifest, source.archives()))
    survey = inspection.survey_of(content, options)
    for split in reversed(sources.SPLITS):  # validation first, see Survey
        for checked in inspection.run(content, split, f"check {split}"):
            survey.add(split, checked)
    survey.conclude()
    print(f"{dataset}: {survey.table()}")
    channels = getattr(content, "channels", RGB)
    if channels != RGB:
        print(f"channels: {channels}")
    for line in survey.lines():
        print(line)
    for line in unused:
        print(f"not used: {line}")
    errors = len(survey.errors())
    warnings = len(survey.findings) - errors
    print(f"{dataset}: {_number(errors, 'error')}, {_number(warnings, 'warning')}")
    return not errors


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
