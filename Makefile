# make demo: install and train a character model.  make test: install what tests need and run them.
# make docs: the reference of all public names.  make test-oldest: with the oldest versions of all that is needed.
# make test-integrations: the examples in others' code, whose packages `make test` does without.
# make test-arm64: the compiler on an emulated AArch64 processor.  PIP_ARGS: for pip, as an index of your own.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin

.PHONY: demo test lint types docs check benchmark test-oldest test-integrations test-arm64 clean

demo: .venv/user
	$(BIN)/everloop demo

test: .venv/developer
	$(BIN)/python -m pytest -n 2

lint: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developer
	$(BIN)/mypy

docs: .venv/developer
	$(BIN)/python docs/reference.py build/docs

check: test lint types docs

test-oldest: .venv/oldest/complete
	.venv/oldest/bin/python -m pytest -n 2

test-integrations: .venv/developer
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[integrations]'
	$(BIN)/python -m pytest tests/test_examples.py tests/data/test_in_memory.py tests/data/test_frames.py tests/test_notebook.py

# Every cell over time against plain PyTorch, every target against its contract, dot products; some ten minutes.
test-arm64: .venv/developer
	PYTHON=$(BIN)/python PIP_ARGS="$(PIP_ARGS)" tools/arm64.sh tests/layers/test_recurrent.py \
	    tests/compiler/targets/test_contract.py tests/compiler/targets/test_llvm_bfloat.py \
	    tests/compiler/targets/test_llvm_whole.py

benchmark: .venv/developer
	$(BIN)/python -m benchmarks.layers

.venv/user: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Everloop needs Python 3.11 or newer; say make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

.venv/developer: .venv/user
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

.venv/oldest/complete: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv/oldest
	.venv/oldest/bin/pip install --quiet $(PIP_ARGS) -c constraints-oldest.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build
