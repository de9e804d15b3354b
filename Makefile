# `make demo`, `make lab` and `make test` do all set-up themselves, in .venv, on a machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: demo lab test suite test-fast stress lint format clean

demo: .venv/app-ready
	$(BIN)/python app.py $(ARGS)

lab: .venv/lab-ready
	$(BIN)/python -m jupyter lab notebooks $(ARGS)

test: .venv/dev-ready
	@$(MAKE) --jobs 2 suite lint || { $(MAKE) --silent lint > .venv/lint.log 2>&1 || cat .venv/lint.log; exit 1; }

suite: .venv/dev-ready
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: .venv/dev-ready
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "not slow and not browser" $(ARGS)

stress: .venv/dev-ready
	$(BIN)/python scripts/stress_app.py --visitors 16 --seconds 20 --pictures 4 --uploads 60
	$(BIN)/python scripts/fuzz.py --count 3000 --checked

lint: .venv/dev-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version) found; ccnet_lab needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/app-ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[app]"
	@touch $@

.venv/lab-ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[app,notebooks]"
	@touch $@ .venv/app-ready

.venv/dev-ready: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[app,notebooks,data,slurm,export,dev]"
	@touch $@ .venv/lab-ready .venv/app-ready

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
