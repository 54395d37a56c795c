# make serve   serve the bundled model on port 8000
# make test    lint, types and every test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The two ONNX Runtime packages hold the same module, so exactly one of them is installed.
RUNTIME := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: serve test lint clean

serve: $(VENV)/.serve-$(RUNTIME)
	$(BIN)/strip-mlp-serve

test: $(VENV)/.test-$(RUNTIME) lint
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/.test-$(RUNTIME)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve-$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[$(RUNTIME)]'
	touch $@

$(VENV)/.test-$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[$(RUNTIME),export,test]'
	touch $@

clean:
	rm -rf $(VENV)
