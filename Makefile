# Every target uses the virtual environment .venv, which the first one creates with
# PYTHON: Python 3.11 to 3.14.
PYTHON ?= python3
BIN := .venv/bin
# DVC runs `aln-pipeline`, found through PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-all lint bench ablation clean

repro: .venv/installed
	$(BIN)/dvc repro
	$(BIN)/aln-pipeline report
	@echo "report: $(CURDIR)/report/index.html"

test: .venv/installed-dev
	$(BIN)/pytest -q

test-all: .venv/installed-dev
	$(BIN)/pytest -q -m ""

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ablation: .venv/installed
	$(BIN)/dvc repro targets
	$(BIN)/python -m benchmarks.ablation

# Those that need more than the demo, and the ablation, which is long.
ASIDE = $(patsubst %,benchmarks/%.py,ablation coffee transfer transfer_corpora)

bench: .venv/installed
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/dvc repro
	for script in $(filter-out $(ASIDE),$(wildcard benchmarks/*.py)); do \
		$(BIN)/python -m "benchmarks.$$(basename "$$script" .py)" || exit 1; \
	done

# Deletes computed files; keeps data/, report/ and .venv/.
clean:
	find cache -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf build .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
