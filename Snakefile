# The pipeline for Snakemake: `snakemake` runs it all, `snakemake -n` says what it would run.
# dvc.yaml runs the same commands on the same files for DVC; tests/workflow holds the two together.
from snakemake.utils import min_version

min_version("9.27")


configfile: "params.yaml"


report: "workflow/report/workflow.rst"


# Only with `--sdm apptainer`: fixes the operating system's libraries too. Built by
# `apptainer build workflow/dualteacher.sif workflow/dualteacher.def`.
container: "workflow/dualteacher.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"


localrules:
    all,
    download,
    weights,
    report,


rule all:
    default_target: True
    input:
        rules.report.output,
