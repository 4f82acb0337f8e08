# Two commands do everything on a fresh machine: `make demo` and `make test`. Each is a venv, a pip install and a run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= latency<=0.1ms

.PHONY: demo test lint docs slow asan neon clean

demo: $(VENV)/.demo
	$(BIN)/hollowbone fit digits --budget "$(BUDGET)" --out runs/digits

test: $(VENV)/.test lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# The stamps below are the whole set-up; delete .venv to start again.
NATIVE := CMakeLists.txt $(wildcard native/*.* native/*/*.*)

$(VENV)/.demo: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[demo,train]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[test]"
	$(BIN)/pip install -c constraints.txt --no-deps timm torchvision
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.test
	$(BIN)/pip install -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build site

-include native/native.mk
