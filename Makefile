# Every command of the project. `make` alone lists them; `make check` is exactly what CI runs.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Variables of the experiments.
SCALE ?= cpu
SEEDS ?=
TASK ?=
# Small models gain nothing from a second thread: on a CPU two processes with half of the cores each.
JOBS ?= $(if $(filter gpu paper,$(SCALE)),1,2)
TIME_BUDGET ?=
AGAIN ?=
HEADS ?= 2 4 6 8 12

# What `make check-wheel` installs: both ends of what pyproject.toml allows, and a torch between them that broke once.
VERSIONS ?= lowest torch==2.11.0 newest

PYTHON ?= python3
# A machine that is lent for its card has no .venv, and needs none.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS := .cache/docs-venv
PIP := -m pip --disable-pip-version-check -qq
# Dozens of processes import torch: each would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

TASK_OPTION = $(if $(strip $(TASK)),--task $(TASK))
RUN_OPTIONS = --scale $(SCALE) $(TASK_OPTION) --jobs $(JOBS) \
	$(if $(strip $(SEEDS)),--seeds $(SEEDS)) $(if $(strip $(TIME_BUDGET)),--time-budget $(TIME_BUDGET)) \
	$(if $(strip $(AGAIN)),--again)

# A file experiments/table1_perplexity.py is reproduced by `make reproduce-table1`, v2_table1_*.py by
# `make reproduce-v2-table1`, figure4_*.py by `make figure4`.
TABLES = $(sort $(foreach file,$(notdir $(wildcard experiments/table[0-9]*_*.py)),$(firstword $(subst _, ,$(file)))))
V2_TABLES = $(sort $(foreach file,$(notdir $(wildcard experiments/v2_table[0-9]*_*.py)),$(word 2,$(subst _, ,$(file)))))
FIGURES = $(sort $(foreach file,$(notdir $(wildcard experiments/figure[0-9]*_*.py)),$(firstword $(subst _, ,$(file)))))

.PHONY: help setup lock format lint test test-all check check-install check-report check-wheel check-gpu docs bench bench-gpu ablate-heads compare-systems compare-combinations models tables figures claims report status

help: ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { name = $$1; sub("%", "<n>", name); printf "  make %-22s %s\n", name, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  experiments: SCALE=smoke|cpu|long|gpu|paper ($(SCALE))  SEEDS="0 1 2"  TASK=multilingual|multimodal|generated  JOBS=$(JOBS)  TIME_BUDGET=seconds  AGAIN=1  HEADS="$(HEADS)"'
	@echo '  check-wheel: VERSIONS="$(VERSIONS)"'
	@echo '  tables here: $(TABLES)   of v2: $(V2_TABLES)   figures here: $(FIGURES)'

setup: $(INSTALLED) ## make .venv with the packages of requirements.lock (again only when they changed)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "mhmoe needs Python 3.11 or \
	newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there'); name another one: make setup \
	PYTHON=python3.11" >&2; exit 1; }
	@echo "setup: $$(grep -c == requirements.lock) packages of requirements.lock into .venv (a minute or two the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) install --upgrade pip # the one of Python 3.11 takes twice as long
	@$(BIN)/python $(PIP) install --no-deps --no-compile -r requirements.lock # whole: there is nothing to resolve
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .
	@$(BIN)/python $(PIP) check
	@$(BIN)/python -c 'import experiments.__main__, datasets, lm_eval.models.huggingface' # compiles what is used
	@touch $@
	@echo "setup: done"

LOCKING := .cache/lock-venv
TORCH = $(shell sed -n 's/^torch==//p' requirements.lock)

# The documentation has an environment of its own: in .venv its packages would make `make setup` 15 s slower.
EXTRA = $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
FREEZE = awk -F == '{ gsub("_", "-", $$1); sub(/[+].*/, "", $$2); print tolower($$1) "==" $$2 }' | LC_ALL=C sort

lock: ## resolve the newest versions again: requirements.lock, environment.yml, docs/requirements.txt (TORCH=version)
	@rm -rf $(LOCKING) && $(PYTHON) -m venv $(LOCKING)
	@echo "lock: resolving with torch $(TORCH)"
	@$(LOCKING)/bin/python $(PIP) install 'torch==$(TORCH)'
	@$(LOCKING)/bin/python $(PIP) install -e '.[experiments,cluster,dev]'
	@{ sed '/^#/!d' requirements.lock; \
	   $(LOCKING)/bin/python $(PIP) freeze --all --exclude pip --exclude-editable \
	   | $(FREEZE); } > requirements.lock.new
	@awk -F == 'NR == FNR { version[$$1] = $$2; next } \
	  { name = $$1; sub(/^ *- /, "", name); if (NF == 2 && name in version) print $$1 "==" version[name]; else print }' \
	  requirements.lock.new environment.yml > environment.yml.new
	@mv requirements.lock.new requirements.lock && mv environment.yml.new environment.yml
	@rm -rf $(LOCKING) && $(PYTHON) -m venv $(LOCKING)
	@echo "lock: resolving the packages of the documentation"
	@$(LOCKING)/bin/python $(PIP) install $(EXTRA)
	@{ sed '/^#/!d' docs/requirements.txt; $(LOCKING)/bin/python $(PIP) freeze | $(FREEZE); } > docs/requirements.txt.new
	@mv docs/requirements.txt.new docs/requirements.txt
	@rm -rf $(LOCKING)

format: setup ## format the code and repair what ruff can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lint: setup ## ruff, ruff format and pyright, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

test: setup ## all tests but the slow ones
	@$(BIN)/python -m pytest

test-all: setup ## all tests
	@$(BIN)/python -m pytest -m ''

check: ## lint, the quick tests, the wheel with the newest packages, the documentation, and the tables against the records
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line setup $(DOCS)/.installed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line check-install lint check-report docs test

check-install: setup ## install the wheel afresh with the locked torch and the newest of all else, and use it
	@$(BIN)/python -m tests.fresh_install --skip-offline locked-torch

check-report: setup ## the committed tables are what the committed records give
	@$(BIN)/python -m experiments render --check

check-wheel: setup ## install the wheel afresh with the lowest and the newest allowed packages, and use it
	@$(BIN)/python -m tests.fresh_install $(VERSIONS)

check-gpu: ## the tests that need a CUDA card, as a table (GPU_PYTHON: a python with torch, transformers, triton, pytest)
	@$(GPU_PYTHON) -m tests.gpu

docs: setup $(DOCS)/.installed ## build the documentation into build/docs/site, warnings as errors
	@$(BIN)/python -m docs.assemble build/docs/pages
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "docs: build/docs/site/index.html"

$(DOCS)/.installed: docs/requirements.txt
	@echo "docs: packages of docs/requirements.txt into $(DOCS)"
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python $(PIP) install -r docs/requirements.txt
	@touch $@

bench: setup ## time the layer and the training against their peers
	@$(BIN)/python -m benchmarks

bench-gpu: ## time the layer on a CUDA card by each path, into results/speed/card.md
	@MHMOE_TRITON=1 $(GPU_PYTHON) -m benchmarks.card_speed --output results/speed

reproduce-table%: setup ## run what is missing of table <n> at SCALE, then render it (AGAIN=1: train anew, compare)
	@$(BIN)/python -m experiments run table$* $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render table$* --scale $(SCALE) $(TASK_OPTION))

reproduce-v2-table%: setup ## the same for table <n> of the follow-up (arXiv 2411.16205)
	@$(BIN)/python -m experiments run v2_table$* $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render v2_table$* --scale $(SCALE) $(TASK_OPTION))

compare-systems: setup ## every system of the field at equal FLOPs (docs/systems.md)
	@$(BIN)/python -m experiments run compare_systems $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render compare_systems --scale $(SCALE))

compare-combinations: setup ## the multi-head mechanism around every router and mixture, at equal FLOPs
	@$(BIN)/python -m experiments run compare_combinations $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render compare_combinations --scale $(SCALE))

ablate-heads: setup ## Table 5 for any numbers of heads: make ablate-heads HEADS="2 3 4"
	@$(BIN)/python -m experiments run table5 --heads $(HEADS) $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render table5 --heads $(HEADS) --scale $(SCALE))

figure%: setup ## run what is missing of figure <n> at SCALE, then render it
	@$(BIN)/python -m experiments run figure$* $(RUN_OPTIONS)
	@$(if $(strip $(AGAIN)),,$(BIN)/python -m experiments render figure$* --scale $(SCALE) $(TASK_OPTION))

models: setup ## train small models of the main systems into models/, and compare their hashes with results/models.csv
	@$(BIN)/python -m experiments run models --scale cpu --jobs $(JOBS) --results models
	@$(BIN)/python -m experiments render models --scale cpu --results models
	@diff results/models.csv models/models.csv && echo "models/.cache/models/cpu: equal to the committed ones, to the bit"

tables: $(addprefix reproduce-,$(TABLES)) $(addprefix reproduce-v2-,$(V2_TABLES)) ## every table

figures: $(FIGURES) ## every figure

claims: setup ## the ledger of claims, from the committed records
	@$(BIN)/python -m experiments render claims --scale $(SCALE)

report: setup ## render results/ again from the committed records, and results/report.html (SCALE=smoke: results/smoke)
	@$(BIN)/python -m experiments render --scale $(SCALE)
	@$(BIN)/python -m docs.numbers

status: setup ## which runs are done, stale or missing
	@$(BIN)/python -m experiments status --scale $(SCALE)
