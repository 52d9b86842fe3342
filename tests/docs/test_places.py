"""Files for places where the tests do not run: Docker, GitHub, clouds. What can be checked without them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from dualteacher import settings
from dualteacher.reporting import figure_names
from dualteacher.workflow import contracts, install
from tests.docs import pages
from tests.docs.pages import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CLOUD = ROOT / "examples" / "cloud"
PINNED = re.compile(r"[\w.-]+/[\w.-]+@v\d+(\.\d+\.\d+)?")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def workflows() -> list[dict[Any, Any]]:
    """Those of the folder, and the example on the page."""
    shown = [block.text for block in pages.blocks() if block.page == "docs/places.md" and block.language == "yaml"]
    return [yaml.safe_load(text) for text in [*(path.read_text(encoding="utf-8") for path in WORKFLOWS), *shown]]


def test_workflows_pin_their_actions_and_limit_their_rights() -> None:
    assert len(workflows()) == 3
    for workflow in workflows():
        assert workflow["permissions"]["contents"] == "read" and True in workflow  # YAML 1.1 reads `on` as true
        for job in workflow["jobs"].values():
            for step in job.get("steps", [job]):
                used = step.get("uses")
                if used is None:
                    assert step["run"].strip()
                elif used.startswith("./"):
                    assert (ROOT / used).is_file()
                else:
                    assert PINNED.fullmatch(used), used


def test_the_comment_shows_files_of_the_report() -> None:
    grid = settings.load(ROOT / "params.yaml").grid
    files = [*contracts.BY_STAGE["report"].outputs, *figure_names.files_of(grid)]
    shown = re.findall(r"results/report/[\w/.-]+", read("docs/places.md"))
    assert len(shown) == 2 and set(shown) <= {str(path) for path in files}


def test_one_action_has_one_version() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS) + read("docs/places.md")
    used = set(re.findall(r"uses: ([\w./-]+@\S+)", text))
    assert len({name.split("@")[0] for name in used}) == len(used) > 4


def test_a_release_runs_the_tests_that_continuous_integration_runs() -> None:
    release, tests = (yaml.safe_load(read(f".github/workflows/{name}.yml")) for name in ("release", "tests"))
    assert release["jobs"]["tests"]["uses"] == "./.github/workflows/tests.yml" and "workflow_call" in tests[True]
    assert "tests" in release["jobs"]["publish"]["needs"]
    runs = [step.get("run", "") for step in tests["jobs"]["tests"]["steps"]]
    assert ".ci/run" in runs and os.access(ROOT / ".ci" / "run", os.X_OK)
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    (named,) = re.findall(r"dualteacher\[(.*?)\]", "".join(runs))
    assert set(named.split(",")) <= set(extras)


def test_both_containers_have_the_same_system_and_packages() -> None:
    docker, apptainer = read("Dockerfile"), read("workflow/dualteacher.def")
    assert re.search(r"^FROM (\S+)", docker, re.M)[1] == re.search(r"^From: (\S+)", apptainer, re.M)[1]
    steps = [
        r"sed -n '/^uv==/,/[^\\]$/p' /opt/requirements.lock > /opt/uv.txt",
        "python -m pip install --no-cache-dir --require-hashes -r /opt/uv.txt",
        "uv pip install --system --no-cache --compile-bytecode --no-deps --require-hashes -r /opt/requirements.lock",
    ]
    for step in steps:
        assert step in docker and step in apptainer, step
    cut = steps[0].replace("/opt/requirements.lock", str(ROOT / "requirements.lock")).partition(" > ")[0]
    found = subprocess.run(["bash", "-c", cut], check=True, capture_output=True, text=True).stdout
    assert found == install.locked_uv(read("requirements.lock")) and found.startswith("uv==")
    copied = re.findall(r"^COPY (\S+)", docker, re.M)
    sent = read(".dockerignore").split()
    assert sent[0] == "*" and {f"!{name}" for name in copied} == set(sent[1:])
    assert all((ROOT / name).is_file() for name in copied)
    assert "--shm-size" in docker and "--shm-size" in read("docs/places.md")


def kubernetes() -> tuple[list[str], list[str], float]:
    pod = yaml.safe_load((CLOUD / "kubernetes.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]} and mounts["shm"] == "/dev/shm"
    (size,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "shm"]
    return container["command"], [mounts["project"], container["workingDir"]], float(size.removesuffix("Gi"))


def aws_batch() -> tuple[list[str], list[str], float]:
    container = json.loads((CLOUD / "aws-batch.json").read_text(encoding="utf-8"))["containerProperties"]
    mounts = {mount["sourceVolume"]: mount["containerPath"] for mount in container["mountPoints"]}
    assert set(mounts) == {volume["name"] for volume in container["volumes"]}
    return container["command"], [mounts["project"]], container["linuxParameters"]["sharedMemorySize"] / 1024


def google_batch() -> tuple[list[str], list[str], float]:
    (group,) = json.loads((CLOUD / "google-batch.json").read_text(encoding="utf-8"))["taskGroups"]
    (runnable,) = group["taskSpec"]["runnables"]
    container, (volume,) = runnable["container"], group["taskSpec"]["volumes"]
    source, _, target = container["volumes"][0].partition(":")
    assert source.startswith(volume["mountPath"] + "/")
    size = re.search(r"--shm-size=(\d+)g", container["options"])[1]
    folder = re.search(r"--workdir (\S+)", container["options"])[1]
    return container["commands"], [target, folder], float(size)


@pytest.mark.parametrize("service", [kubernetes, aws_batch, google_batch])
def test_a_cloud_job_runs_the_pipeline_on_the_mounted_project(service) -> None:
    command, folders, shared_memory = service()
    assert command == ["snakemake"]
    assert set(folders) == {re.search(r"^WORKDIR (\S+)", read("Dockerfile"), re.M)[1]}
    assert shared_memory >= 2, "GiB"


def test_the_snakemake_catalog_finds_what_it_asks_for() -> None:
    """Its rules: github.com/snakemake/snakemake-workflow-catalog, "Adding workflows"."""
    assert (ROOT / "workflow/Snakefile").is_file() and list((ROOT / "workflow/rules").glob("*.smk"))
    assert {"snakemake", "workflow"} <= set(re.findall(r"\w+", read("README.md").lower()))
    assert read("config/README.md").startswith("# Configuration")
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]["software-stack-deployment"]
    snakefile = read("workflow/Snakefile")
    assert usage["apptainer"] == ("container:" in snakefile) and usage["report"] == ("report:" in snakefile)
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert usage["conda"] == ("conda:" in rules) and not usage["apptainer+conda"]
