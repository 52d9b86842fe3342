# `make` lists what there is to do; each target sets up what it needs.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The first of these that is new enough; or name one: make PYTHON=/path/to/python3 run
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Installed once for each content of the lock and each place of the project.
ID := $(shell (echo "$(CURDIR)"; cat requirements.lock pyproject.toml) | cksum | tr -dc 0-9)
READY := $(VENV)/.ready-$(ID)
NEEDED_GB := 8

##@ The pipeline
.PHONY: run
run: $(READY) ## run everything that is missing or outdated, with Snakemake (ARGS=… are passed on)
	@snakemake $(ARGS)
	@echo "The report: results/report/index.html"

.PHONY: plan
plan: $(READY) ## say what `make run` would run, and why
	@snakemake --dry-run --quiet rules $(ARGS)

.PHONY: estimate
estimate: $(READY) ## estimate the disk, GPU memory and GPU time that params.yaml asks for
	@python -m dualteacher estimate

.PHONY: use
use: $(READY) ## write a preset to params.yaml: make use PRESET=tiny
	@python -m dualteacher use "$(PRESET)"

.PHONY: report
report: $(READY) ## Snakemake's account of the last run (figures, times, provenance) in results/snakemake.html
	@snakemake --report results/snakemake.html

##@ DVC
.PHONY: repro
repro: $(READY) ## the same pipeline with DVC, which keeps every version's files
	@python -m dualteacher check-params >/dev/null # before DVC puts its names into commands
	@dvc repro $(ARGS)
	@echo "The report: results/report/index.html"

.PHONY: exp-show
exp-show: $(READY) ## table of the experiments made with `dvc exp run -S 'train.learning_rate=0.0001'`
	@dvc exp show --only-changed --drop '^((data|results|dualteacher)/.*|own_data|.*[.]seeds)$$' --hide-workspace $(ARGS)

.PHONY: adopt-dvc
adopt-dvc: $(READY) ## after `make run`: let DVC take over the files that Snakemake made
	@if [[ "$$(snakemake --dry-run 2>&1)" != *"Nothing to be done"* ]]; then \
		echo "error: Snakemake has jobs left, which DVC would take for done: first \`make run\`" >&2; exit 2; fi
	@dvc commit --force --quiet
	@dvc status

.PHONY: adopt-snakemake
adopt-snakemake: $(READY) ## after `make repro`: let Snakemake take over the files that DVC made
	@if ! dvc status --quiet; then \
		echo "error: DVC has stages left, which Snakemake would take for done: first \`make repro\`" >&2; exit 2; fi
	@snakemake --touch --forceall --cores 1 --quiet all
	@if [[ "$$(snakemake --dry-run 2>&1)" != *"Nothing to be done"* ]]; then \
		echo "error: Snakemake still sees something to do: \`make plan\` says what" >&2; exit 1; fi
	@echo "Snakemake: nothing to be done."

##@ Development
.PHONY: test
test: $(READY) ## run the tests (ARGS='-m "not slow"' for the quick ones)
	@python -m pytest -n auto --maxprocesses 4 $(ARGS)

.PHONY: check
check: $(READY) ## lint, formatting, types and the workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --line-length 110 --check Snakefile workflow
	snakemake --lint

.PHONY: code-deps
code-deps: $(READY) ## list anew which sources each stage uses (dvc.yaml, workflow/code.yaml, the schema)
	@python -m dualteacher.workflow.code_deps

.PHONY: reference
reference: $(READY) ## write docs/reference anew (from settings/, cli/ and workflow/reference/)
	@python -m dualteacher.workflow.reference

.PHONY: lock
lock: $(READY) ## solve pyproject.toml anew into requirements.lock (ARGS=--upgrade for newer versions)
	@python -m pip install --quiet --disable-pip-version-check uv
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" $(ARGS) --output-file requirements.lock pyproject.toml

.PHONY: clean
clean: ## remove results, logs and checkpoints; data/, $(VENV)/ and DVC's cache stay
	rm -rf results/runs results/report results/export results/summary.json results/snakemake.html logs .checkpoints dvclive

.PHONY: setup
setup: $(READY) ## only create $(VENV) with the locked packages (every target does it when needed)

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {sub(/\$$\(VENV\)/, "$(VENV)", $$2); printf "  %-16s %s\n", $$1, $$2}' Makefile

# One line for each thing that may be missing, then the packages, counted as they come in.
define NO_PYTHON
error: no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python3
endef

$(READY):
	@if [ -z "$(PYTHON)" ]; then echo "$(NO_PYTHON)" >&2; exit 2; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo "$(NO_PYTHON)" >&2; exit 2; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "error: $(PYTHON) lacks the venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; fi
	@if ! command -v git >/dev/null; then echo "error: git is needed: install it" >&2; exit 2; fi
	@if ! grep -qsF '$(CURDIR)/$(BIN)/' $(BIN)/pip; then \
		if ! "$(PYTHON)" -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < $(NEEDED_GB)e9)'; then \
			echo "error: less than $(NEEDED_GB) GB of free disk here: torch and its libraries need about that" >&2; exit 2; fi; \
		echo "Creating $(VENV) with $$("$(PYTHON)" --version)"; \
		"$(PYTHON)" -m venv --clear $(VENV); fi
	@packages=$$(grep -c '^[a-z0-9]' requirements.lock); \
	echo "Installing $$packages locked packages (some 3 GB to fetch the first time: minutes, by your network)"; \
	terminal=0; if [ -t 1 ]; then terminal=1; fi; began=$$SECONDS; \
	if ! python -m pip install --disable-pip-version-check --progress-bar off --require-hashes \
		-r requirements.lock --log $(VENV)/install.log 2> >(grep '^ERROR' >&2) \
		| awk -v all=$$packages -v terminal=$$terminal \
		'/^(Collecting|Requirement already satisfied)/ {name = $$1 == "Collecting" ? $$2 : $$4; sub(/[^A-Za-z0-9._-].*/, "", name); \
			if (seen[name]++) next; n++; \
			if (terminal) printf "\r  %d of %d", n, all; else if (n % 50 == 0) print "  " n " of " all} \
		/^Installing collected/ {print (terminal ? "\n" : "") "  all there; unpacking"} {fflush()}'; then \
		echo "error: the packages could not be installed: see $(VENV)/install.log; the same command goes on from here" >&2; \
		exit 2; fi; \
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	others=$$(python -m pip list --disable-pip-version-check --format=freeze | sed 's/==.*//' | tr 'A-Z_.' 'a-z--' \
		| grep -vxE 'pip|setuptools|wheel|uv|dualteacher' | grep -vxF "$$(sed -n 's/^\([a-z0-9.-]*\)==.*/\1/p' requirements.lock)" || true); \
	if [ -n "$$others" ]; then echo "Removing what the lock does not list:" $$others; \
		python -m pip uninstall --quiet --yes $$others; fi; \
	rm -f $(VENV)/.ready-*; touch $@; echo "Ready after $$((SECONDS - began)) s"
