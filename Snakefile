# The pipeline for Snakemake: `snakemake --cores all` runs it, `snakemake -n` shows what would run.
# dvc.yaml runs the same commands on the same files; tests/workflow keeps the two in step.
import sys

from snakemake.utils import min_version

min_version("9.27")

sys.path.insert(0, str(workflow.basedir))  # use this clone's package even if another is installed

from dualteacher.workflow import engines

engines.check()  # before Snakemake reads params.yaml: its messages are longer and do not name the key


configfile: "params.yaml"


report: "workflow/captions/workflow.rst"


# Only used with `--sdm apptainer`: pins the system libraries too. Build it with
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
    classes,
    report,


rule all:
    default_target: True
    input:
        rules.report.output,
