# `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.

SHELL := /bin/bash
CORES ?= 2
CLUSTER_CONFIG ?= tests/configs/cluster.yaml
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
DEMO := --configfile config/demo.yaml

.PHONY: help demo test test-cluster lint lock schema clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "Python 3.11 is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Install it (Debian: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/.complete ## run the whole workflow on the simulated atlas
	$(SNAKEMAKE) $(DEMO)
	$(SNAKEMAKE) $(DEMO) --report results/report.html
	@echo
	@echo "Scores (CSV):  results/demo/tables/"
	@echo "Figures:       results/demo/figures/"
	@echo "Report:        results/report.html"

test: .venv/.complete lint ## lint, then all tests
	$(BIN)/python -m pytest --numprocesses=$(CORES) --dist=loadscope --no-loadscope-reorder

test-cluster: .venv/.complete ## the cluster profile on a real SLURM, set up here (Debian, root; elsewhere it is skipped)
	@tests/cluster/testbed.sh check >/dev/null || tests/cluster/testbed.sh install || test $$? = 3
	NMFBENCH_CLUSTER_CONFIG=$(CLUSTER_CONFIG) $(BIN)/python -m pytest tests/cluster

lint: .venv/.complete ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint $(DEMO)

schema: .venv/.complete ## write config/config.schema.json and the key tables of config/README.md
	$(BIN)/python -m nmfbench.config.generate

lock: ## resolve requirements.in anew into requirements.lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet --requirement requirements.in
	{ echo "# Made by 'make lock' from requirements.in with $$(.venv-lock/bin/python --version)."; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > requirements.lock
	rm -rf .venv-lock

clean: ## remove what the demo made
	rm -rf results/demo results/report.html results/manifest.json results/logs results/benchmarks
