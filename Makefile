# Two commands do all the set-up: `make demo` and `make test`. Both make .venv as they need it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -name '*.py' -o -name '*.j2' -o -name '*.css' -o -name '*.js')

.PHONY: demo test lint docs bench gpu clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/sinkscope run --offline --out sinkscope-run

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	$(BIN)/python docs/build.py

bench: $(VENV)/installed-dev
	$(BIN)/python bench/readers.py

# With the machine's own torch: no .venv is made. make gpu ARGS="--tiny" runs it in miniature.
gpu:
	PYTHONPATH=src $(PYTHON) bench/gpu.py --out bench/results $(ARGS)

clean:
	rm -rf $(VENV) sinkscope-run .pytest_cache .mypy_cache .ruff_cache
