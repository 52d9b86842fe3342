# `make` lists all targets. Each target installs the environment first, if needed.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The first that is new enough, or your choice: make PYTHON=/path/to/python3 run
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Reinstall when the lock file or the project's location changes.
ID := $(shell (echo "$(CURDIR)"; cat requirements.lock pyproject.toml) | cksum | tr -dc 0-9)
READY := $(VENV)/.ready-$(ID)
NEEDED_GB := 8

##@ The pipeline
.PHONY: run
run: $(READY) ## run all missing or outdated stages with Snakemake (ARGS=… for its options)
	@snakemake $(ARGS)
	@echo "The report: results/report/index.html"

.PHONY: plan
plan: $(READY) ## show what `make run` would run, and why
	@snakemake --dry-run --quiet rules $(ARGS)

.PHONY: estimate
estimate: $(READY) ## estimate disk space, GPU memory and GPU time for params.yaml
	@python -m dualteacher estimate

.PHONY: use
use: $(READY) ## write a preset to params.yaml: make use PRESET=tiny
	@python -m dualteacher use "$(PRESET)"

.PHONY: report
report: $(READY) ## write Snakemake's report on the last run to results/snakemake.html (figures, times, provenance)
	@snakemake --report results/snakemake.html

##@ DVC
.PHONY: repro
repro: $(READY) ## run the same pipeline with DVC, which caches every version's files
	@python -m dualteacher check-params >/dev/null # before DVC inserts its names into commands
	@dvc repro $(ARGS)
	@echo "The report: results/report/index.html"

.PHONY: exp-show
exp-show: $(READY) ## compare experiments made with `dvc exp run -S 'train.learning_rate=0.0001'`
	@dvc exp show --only-changed --drop '^((data|results|dualteacher)/.*|own_data|.*[.]seeds)$$' --hide-workspace $(ARGS)

.PHONY: adopt-dvc
adopt-dvc: $(READY) ## after `make run`: make DVC accept the files that Snakemake wrote
	@if [[ "$$(snakemake --dry-run 2>&1)" != *"Nothing to be done"* ]]; then \
		echo "error: Snakemake has unfinished jobs, which DVC would treat as done; run \`make run\` first" >&2; exit 2; fi
	@dvc commit --force --quiet
	@dvc status

.PHONY: adopt-snakemake
adopt-snakemake: $(READY) ## after `make repro`: make Snakemake accept the files that DVC wrote
	@if ! dvc status --quiet; then \
		echo "error: DVC has unfinished stages, which Snakemake would treat as done; run \`make repro\` first" >&2; exit 2; fi
	@snakemake --touch --forceall --cores 1 --quiet all
	@if [[ "$$(snakemake --dry-run 2>&1)" != *"Nothing to be done"* ]]; then \
		echo "error: Snakemake still has jobs to run; see \`make plan\`" >&2; exit 1; fi
	@echo "Snakemake: nothing to be done."

##@ Development
.PHONY: test
test: $(READY) ## run the tests (ARGS='-m "not slow"' for the fast ones only)
	@python -m pytest -n auto --maxprocesses 4 $(ARGS)

.PHONY: check
check: $(READY) ## check lint, formatting, types and the workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --line-length 110 --check Snakefile workflow
	snakemake --lint

.PHONY: gpu-check
gpu-check: ## on a machine with a GPU: its tests, and the benchmark's targets, into gpu-check.json
	@if [ -e "$(READY)" ]; then python -m dualteacher.benchmark.gpu_check; \
		else $(PYTHON) -m dualteacher.benchmark.gpu_check; fi # without network: a Python that has the packages

.PHONY: code-deps
code-deps: $(READY) ## update dvc.yaml, workflow/code.yaml and the schema from the code
	@python -m dualteacher.workflow.code_deps

.PHONY: reference
reference: $(READY) ## update docs/reference from the code
	@python -m dualteacher.workflow.reference

.PHONY: docs
docs: $(READY) ## build the docs site into site/ (broken links fail)
	@NO_MKDOCS_2_WARNING=1 mkdocs build
	@echo "The site: site/index.html"

.PHONY: lock
lock: $(READY) ## update requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --extra docs --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" $(ARGS) --output-file requirements.lock pyproject.toml

.PHONY: clean
clean: ## remove results, logs and checkpoints; keep data/, $(VENV)/ and DVC's cache
	rm -rf results/runs results/report results/export results/summary.json results/snakemake.html logs .checkpoints dvclive

.PHONY: setup
setup: $(READY) ## create $(VENV) with the locked packages (other targets do so when needed)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {sub(/\$$\(VENV\)/, "$(VENV)", $$2); printf "  %-16s %s\n", $$1, $$2}' Makefile

# One-line errors for missing requirements, then install the packages (dualteacher/workflow/install.py).
define NO_PYTHON
error: no Python 3.11 or newer found; install it, or set PYTHON=/path/to/python3
endef

$(READY):
	@if [ -z "$(PYTHON)" ]; then echo "$(NO_PYTHON)" >&2; exit 2; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo "$(NO_PYTHON)" >&2; exit 2; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "error: $(PYTHON) lacks the venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; fi
	@if ! command -v git >/dev/null; then echo "error: git not found; install it" >&2; exit 2; fi
	@if ! grep -qsF '$(CURDIR)/$(BIN)/' $(BIN)/pip; then \
		if ! "$(PYTHON)" -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < $(NEEDED_GB)e9)'; then \
			echo "error: less than $(NEEDED_GB) GB of free disk space here; torch and its libraries need about that much" >&2; exit 2; fi; \
		echo "Creating $(VENV) with $$("$(PYTHON)" --version)"; \
		"$(PYTHON)" -m venv --clear $(VENV); fi
	@python -m dualteacher.workflow.install
	@rm -f $(VENV)/.ready-*; touch $@
