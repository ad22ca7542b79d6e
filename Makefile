# make demo    answer a few prompts with the bundled pair      make check   style and types
# make test    all tests, with coverage                        make bench   the engine's speed, as ratios
# Each makes its own .venv first, from pyproject.toml.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/italic demo

# One thread a process, and two processes: the tests' tiny models gain nothing from a second thread, and two collapse
# when another is busy. A file's tests stay together, for they share what is slow to make.
test: export OMP_NUM_THREADS ?= 1
test: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=96

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/engine.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage dist

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
