# `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.

SHELL := /bin/bash
CORES ?= 2
CONFIG ?= config/config.yaml
PROFILE ?=
CLUSTER_CONFIG ?= tests/configs/cluster.yaml
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
DEMO := --configfile config/demo.yaml
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo plan test test-cluster lint lock schema docs tutorials wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.complete: requirements.lock requirements-3.12.lock requirements.in pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python 3.11, 3.12 or 3.13 is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Install one (Debian: apt-get install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into .venv (some minutes; about 2 GB with torch's CPU build, 7 GB with its CUDA build) ..."
	@$(PYTHON) -m venv .venv
	@lock=$$($(BIN)/python -c 'import sys; print({11: "requirements.lock", 12: "requirements-3.12.lock"}.get(sys.version_info[1], "requirements.in"))'); \
	  $(BIN)/python $(PIP) --requirement $$lock
	@$(BIN)/python $(PIP) "setuptools>=65"
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

install: .venv/.complete ## install into .venv what everything else needs
	@echo "Installed: source .venv/bin/activate, then snakemake and nmfbench"

demo: .venv/.complete ## run the whole workflow on the simulated atlas
	@$(SNAKEMAKE) $(DEMO)
	@$(SNAKEMAKE) $(DEMO) --report results/report.html
	@echo
	@$(BIN)/python -m nmfbench show results/demo
	@echo
	@echo "Scores (CSV):  results/demo/tables/"
	@echo "Figures:       results/demo/figures/"
	@echo "Report:        results/report.html"

plan: .venv/.complete ## what a run would do and ask for: make plan CONFIG=mine.yaml PROFILE=profiles/slurm
	@$(BIN)/python -m nmfbench config check $(CONFIG)
	@$(SNAKEMAKE) --dry-run --configfile $(CONFIG) $(if $(PROFILE),--profile $(PROFILE))

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

schema: .venv/.complete ## write what follows from the cards: config.schema.json, tables of config/README.md, the profile
	$(BIN)/python -m nmfbench.config.generate

docs: ## build the documentation site into site/, every link checked
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/python $(PIP) --requirement docs/site/requirements.txt; }
	.venv-docs/bin/mkdocs build --strict --quiet
	@echo "Site: site/index.html"

tutorials: .venv/.complete ## run the tutorials and write what they print into them: make demo first; NMFBENCH_REAL_H5AD=kang2018_pbmc_ifnb.h5ad
	$(BIN)/python docs/site/execute.py docs/tutorials/from_csv_to_figures.md --link results=results
	$(BIN)/python docs/site/execute.py docs/tutorials/from_h5ad_to_table.md --link kang2018_pbmc_ifnb.h5ad=$(NMFBENCH_REAL_H5AD)

wheel: ## build the package that `pip install` takes into dist/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

lock: ## resolve requirements.in anew into the lock of this Python: make lock PYTHON=python3.12
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet --requirement requirements.in
	version=$$(.venv-lock/bin/python -c 'import sys; print("" if sys.version_info[1] == 11 else "-3.%d" % sys.version_info[1])'); \
	{ echo "# Made by 'make lock' from requirements.in with $$(.venv-lock/bin/python --version)."; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' \
	    | grep -vE '^(nvidia-|cuda-|triton==)'; } > requirements$$version.lock
	rm -rf .venv-lock

clean: ## remove what the demo made
	rm -rf results/demo results/report.html results/manifest.json results/logs results/benchmarks
