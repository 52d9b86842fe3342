# The pipeline for Snakemake: `snakemake --cores all` runs it, `snakemake -n` shows what would run.
include: "workflow/Snakefile"


workflow.default_target = "all"  # that of an included file does not count
