# From archives to packed images, class tables and partitions.


rule download:
    input:
        own_data=own_data,
        code=CODE["download"],
    output:
        manifest="data/{dataset}/raw/manifest.json",
    log:
        "logs/download/{dataset}.log",
    benchmark:
        "logs/benchmarks/download/{dataset}.tsv"
    params:
        dataset=read_as,
    shell:
        "python -m dualteacher download --dataset {wildcards.dataset:q}"


rule weights:
    input:
        own_weights=own_weights,
        code=CODE["weights"],
    output:
        weights=f"data/weights/{config['model']['backbone']}.safetensors",
    log:
        "logs/weights/weights.log",
    benchmark:
        "logs/benchmarks/weights/weights.tsv"
    params:
        backbone=lookup(dpath="model/backbone", within=config),
        weights=lookup(dpath="model/weights", within=config),
    shell:
        "python -m dualteacher download --weights"


rule prepare:
    input:
        manifest="data/{dataset}/raw/manifest.json",
        code=CODE["prepare"],
    output:
        train="data/{dataset}/train.arrow",
        val="data/{dataset}/val.arrow",
        stats="data/{dataset}/stats.parquet",
        findings="data/{dataset}/findings.json",
    log:
        "logs/prepare/{dataset}.log",
    benchmark:
        "logs/benchmarks/prepare/{dataset}.tsv"
    threads: 8  # decodes in parallel; Snakemake caps this at --cores
    params:
        dataset=read_as,
    shell:
        "python -m dualteacher prepare --dataset {wildcards.dataset:q}"


rule classes:
    input:
        train="data/{dataset}/train.arrow",
        val="data/{dataset}/val.arrow",
        stats="data/{dataset}/stats.parquet",
        code=CODE["classes"],
    output:
        classes="data/{dataset}/classes.json",
        contact_sheet=report(
            "data/{dataset}/contact_sheet.png",
            caption="../captions/contact_sheet.rst",
            category="Data",
            labels={"dataset": "{dataset}", "what": "contact sheet"},
        ),
    log:
        "logs/classes/{dataset}.log",
    benchmark:
        "logs/benchmarks/classes/{dataset}.tsv"
    params:
        dataset=lookup(dpath="datasets/{dataset}", within=config),
    shell:
        "python -m dualteacher classes --dataset {wildcards.dataset:q}"


rule partition:
    input:
        train="data/{dataset}/train.arrow",
        stats="data/{dataset}/stats.parquet",
        code=CODE["partition"],
    output:
        table="data/{dataset}/partitions/{partition}/seed{seed}.parquet",
        provenance="data/{dataset}/partitions/{partition}/seed{seed}.provenance.json",
    log:
        "logs/partition/{dataset}-{partition}-{seed}.log",
    benchmark:
        "logs/benchmarks/partition/{dataset}-{partition}-{seed}.tsv"
    params:
        partition=lookup(dpath="partition/{partition}", within=config),
    shell:
        "python -m dualteacher partition --dataset {wildcards.dataset:q}"
        " --partition {wildcards.partition:q} --seed {wildcards.seed:q}"
