"""Prints what both engines would run in the current folder, as JSON: {engine: {command: job}}.

A job has `inputs` and `outputs` (sorted paths) and `params` (by name). Snakemake's jobs come from its
private API, for which pyproject.toml keeps it below version 10.
"""

import json
from pathlib import Path


def snakemake_jobs() -> dict:
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow_api = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(),
            snakefile=Path("Snakefile").resolve(),
        )
        workflow_api.dag(DAGSettings(forceall=True))
        workflow = workflow_api._workflow
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
        workflow._build_dag()
        return {
            job.shellcmd: {
                "inputs": sorted(map(str, job.input)),
                "outputs": sorted(map(str, job.output)),
                "params": dict(job.params.items()),
                "log": [str(path) for path in job.log],
            }
            for job in workflow.dag.jobs
            if job.rule.name != "all"
        }


def dvc_jobs() -> dict:
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    jobs = {}
    for stage in Repo(".").index.stages:
        params = {}
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                params |= {_name(key): value for key, value in dep.read_params().items()}
        jobs[stage.cmd] = {
            "inputs": sorted(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)),
            "outputs": sorted(out.def_path for out in stage.outs),
            "params": params,
        }
    return jobs


def _name(key: str) -> str:
    """The rules' word for a DVC parameter: its last part, or what it is a case of."""
    first, *rest = key.split(".")
    return {"datasets": "dataset", "partition": "partition", "methods": "method"}.get(first, [first, *rest][-1])


if __name__ == "__main__":
    print(json.dumps({"snakemake": snakemake_jobs(), "dvc": dvc_jobs()}))
