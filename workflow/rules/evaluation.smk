# Evaluation of every run, then one report on all of them.


rule evaluate:
    input:
        val="data/{dataset}/val.arrow",
        classes="data/{dataset}/classes.json",
        partition="data/{dataset}/partitions/{partition}/seed{seed}.parquet",
        student="results/runs/{dataset}/{partition}/{method}/seed{seed}/student.safetensors",
        history="results/runs/{dataset}/{partition}/{method}/seed{seed}/history.parquet",
        weights=f"data/weights/{config['model']['backbone']}.safetensors",  # read if it is frozen
        code=CODE["evaluate"],
    output:
        metrics="results/runs/{dataset}/{partition}/{method}/seed{seed}/metrics.json",
        per_class="results/runs/{dataset}/{partition}/{method}/seed{seed}/per_class.parquet",
        per_image="results/runs/{dataset}/{partition}/{method}/seed{seed}/per_image.parquet",
        confusion="results/runs/{dataset}/{partition}/{method}/seed{seed}/confusion.parquet",
        card="results/runs/{dataset}/{partition}/{method}/seed{seed}/model_card.md",
        gallery=report(
            "results/runs/{dataset}/{partition}/{method}/seed{seed}/gallery.png",
            caption="../captions/gallery.rst",
            category="Galleries",
            labels={
                "dataset": "{dataset}",
                "partition": "{partition}",
                "method": "{method}",
                "seed": "{seed}",
            },
        ),
        pictures="results/runs/{dataset}/{partition}/{method}/seed{seed}/gallery.parquet",
        classes="results/runs/{dataset}/{partition}/{method}/seed{seed}/student.classes.json",
    log:
        "logs/evaluate/{dataset}-{partition}-{method}-{seed}.log",
    benchmark:
        "logs/benchmarks/evaluate/{dataset}-{partition}-{method}-{seed}.tsv"
    threads: config["runtime"]["threads"] * config["runtime"]["processes"]
    resources:
        gpu=engines.gpus(config["runtime"]["device"]) * config["runtime"]["processes"],
    params:
        inference=lookup(dpath="inference", within=config),
        evaluate=lookup(dpath="evaluate", within=config),
        precision=lookup(dpath="runtime/precision", within=config),
    shell:
        "python -m dualteacher evaluate --dataset {wildcards.dataset:q}"
        " --partition {wildcards.partition:q} --method {wildcards.method:q} --seed {wildcards.seed:q}"


rule report:
    input:
        val=cells("data/{dataset}/val.arrow"),
        classes=cells("data/{dataset}/classes.json"),
        provenance=cells("data/{dataset}/partitions/{partition}/seed{seed}.provenance.json"),
        history=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/history.parquet"),
        cost=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/cost.json"),
        metrics=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/metrics.json"),
        per_class=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/per_class.parquet"),
        per_image=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/per_image.parquet"),
        alarms=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/alarms.json"),
        calibration=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/calibration.parquet"),
        snapshots=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/snapshots.parquet"),
        confusion=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/confusion.parquet"),
        gallery=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/gallery.png"),
        pictures=cells("results/runs/{dataset}/{partition}/{method}/seed{seed}/gallery.parquet"),
        code=CODE["report"],
    output:
        csv=report("results/report/table.csv", caption="../captions/table.rst", category="Results"),
        md="results/report/table.md",
        tex="results/report/table.tex",
        parquet="results/report/table.parquet",
        seeds="results/report/table_seeds.parquet",
        curves="results/report/curves.csv",
        comparisons=report("results/report/comparisons.csv", caption="../captions/data.rst", category="Data"),
        class_gains=report("results/report/class_gains.csv", caption="../captions/data.rst", category="Data"),
        calibration=report("results/report/calibration.csv", caption="../captions/data.rst", category="Data"),
        hardest=report("results/report/hardest.csv", caption="../captions/data.rst", category="Data"),
        alarms=report("results/report/alarms.csv", caption="../captions/data.rst", category="Data"),
        page=report("results/report/index.html", caption="../captions/page.rst", category="Results"),
        figures=captioned(figures("svg")),
        bitmaps=figures("png"),
        summary="results/summary.json",
    log:
        "logs/report/report.log",
    benchmark:
        "logs/benchmarks/report/report.tsv"
    params:
        grid=lookup(dpath="grid", within=config),
        report=lookup(dpath="report", within=config),
    shell:
        "python -m dualteacher report"
