# Supervised warm-up, shared by all methods of a partition and seed, then one run per method.


rule warmup:
    input:
        train="data/{dataset}/train.arrow",
        val="data/{dataset}/val.arrow",
        partition="data/{dataset}/partitions/{partition}/seed{seed}.parquet",
        weights=f"data/weights/{config['model']['backbone']}.safetensors",
        code=CODE["warmup"],
    output:
        student="results/runs/{dataset}/{partition}/warmup/seed{seed}/student.safetensors",
        history="results/runs/{dataset}/{partition}/warmup/seed{seed}/history.parquet",
        cost="results/runs/{dataset}/{partition}/warmup/seed{seed}/cost.json",
        alarms="results/runs/{dataset}/{partition}/warmup/seed{seed}/alarms.json",
    log:
        "logs/warmup/{dataset}-{partition}-{seed}.log",
    benchmark:
        "logs/benchmarks/warmup/{dataset}-{partition}-{seed}.tsv"
    threads: config["runtime"]["threads"] * config["runtime"]["processes"]
    resources:
        gpu=engines.gpus(config["runtime"]["device"]) * config["runtime"]["processes"],
    params:
        model=lookup(dpath="model", within=config),
        batch=lookup(dpath="batch", within=config),
        augment=lookup(dpath="augment", within=config),
        sampling=lookup(dpath="sampling", within=config),
        loss=lookup(dpath="loss", within=config),
        optimizer=lookup(dpath="optimizer", within=config),
        warmup=lookup(dpath="warmup", within=config),
        inference=lookup(dpath="inference", within=config),
        precision=lookup(dpath="runtime/precision", within=config),
    shell:
        "python -m dualteacher warmup --dataset {wildcards.dataset:q}"
        " --partition {wildcards.partition:q} --seed {wildcards.seed:q}"


rule train:
    input:
        train="data/{dataset}/train.arrow",
        val="data/{dataset}/val.arrow",
        partition="data/{dataset}/partitions/{partition}/seed{seed}.parquet",
        warmup="results/runs/{dataset}/{partition}/warmup/seed{seed}/student.safetensors",
        weights=f"data/weights/{config['model']['backbone']}.safetensors",  # read if it is frozen
        code=CODE["train"],
        method=method_file,
    output:
        student="results/runs/{dataset}/{partition}/{method}/seed{seed}/student.safetensors",
        history="results/runs/{dataset}/{partition}/{method}/seed{seed}/history.parquet",
        cost="results/runs/{dataset}/{partition}/{method}/seed{seed}/cost.json",
        alarms="results/runs/{dataset}/{partition}/{method}/seed{seed}/alarms.json",
        calibration="results/runs/{dataset}/{partition}/{method}/seed{seed}/calibration.parquet",
        snapshots="results/runs/{dataset}/{partition}/{method}/seed{seed}/snapshots.parquet",
    log:
        "logs/train/{dataset}-{partition}-{method}-{seed}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}-{partition}-{method}-{seed}.tsv"
    threads: config["runtime"]["threads"] * config["runtime"]["processes"]
    resources:
        gpu=engines.gpus(config["runtime"]["device"]) * config["runtime"]["processes"],
    params:
        model=lookup(dpath="model", within=config),
        batch=lookup(dpath="batch", within=config),
        augment=lookup(dpath="augment", within=config),
        sampling=lookup(dpath="sampling", within=config),
        mixing=lookup(dpath="mixing", within=config),
        loss=lookup(dpath="loss", within=config),
        optimizer=lookup(dpath="optimizer", within=config),
        train=lookup(dpath="train", within=config),
        method=lookup(dpath="methods/{method}", within=config),
        inference=lookup(dpath="inference", within=config),
        weights=lookup(dpath="evaluate/weights", within=config),
        precision=lookup(dpath="runtime/precision", within=config),
    shell:
        "python -m dualteacher train --dataset {wildcards.dataset:q}"
        " --partition {wildcards.partition:q} --method {wildcards.method:q} --seed {wildcards.seed:q}"
