# The one list of commands; CI and pre-commit call these targets and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Plain `pytest -q` prints the line that CI reads; durations show what makes the suite slow.
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench bench-quick faults lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: .venv/installed ## Make .venv with the locked packages and .venv/bin/gate

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "registration gate needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Watch real attempts go through a real Kafka and be answered
	$(BIN)/gate demo

test: install ## Run all tests, on a real Kafka that the suite starts
	$(PYTEST) -q -n 2 --dist loadfile

check: install ## Lint, types, imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Measure against peers, side by side in one run
	$(BIN)/python tests/benchmarks/run.py

bench-quick: install ## The same with less of everything, in a minute
	$(BIN)/python tests/benchmarks/run.py --quick

faults: install ## Break everything for an hour: fuzzing, simulations, faults on real Kafka; ends with a table
	$(BIN)/python -m tests.faults.fuzz --seconds 180
	$(PYTEST) -q -m faults --timeout=600 tests
	$(PYTEST) -q --hypothesis-profile=faults --timeout=1800 tests/unit/ledger tests/unit/worker tests/faults/test_hostile.py
	$(BIN)/python -m tests.faults

lock: install ## Make requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --upgrade -o requirements.lock

clean: ## Remove what the commands above have made
	rm -rf .venv .gate dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
