# make demo: install and train a character model.  make test: install what tests need and run them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types check benchmark clean

demo: .venv/user
	$(BIN)/everloop demo

test: .venv/developer
	$(BIN)/python -m pytest -n 2

lint: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developer
	$(BIN)/mypy

check: test lint types

benchmark: .venv/developer
	$(BIN)/python -m benchmarks.layers

.venv/user: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Everloop needs Python 3.11 or newer; say make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/developer: .venv/user
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv
