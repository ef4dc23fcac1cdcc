# Everything runs in .venv, which is made from the lock. Two commands set PaperRoute up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
Q ?= What are the recent technical trends around LoRA for image generation?

# Neither the demo nor a test may ever reach a paid model, whatever the shell that starts them holds.
CLEAN_ENV := env -u OPENAI_API_KEY -u ANTHROPIC_API_KEY -u GEMINI_API_KEY -u GOOGLE_API_KEY

.PHONY: bench-gateway bench-governor bench-ordering bench-recall bench-retrieval bench-telemetry chaos demo test check generate lock clean

# Installs again when the lock, the package or a contract changed.
$(VENV)/.ready: requirements.lock pyproject.toml hatch_build.py $(wildcard protos/paperroute/v1/*.proto)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(VENV)/.ready
	PAPERROUTE_DATA_DIR=.paperroute $(CLEAN_ENV) $(BIN)/paperroute survey "$(Q)" --source sample

# A file's tests share a process, and with it the clusters and databases that are made for them. The files with the
# longest tests come first by their names, so that no process is left with them at the end.
test: $(VENV)/.ready
	$(CLEAN_ENV) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against '.git#ref=$(shell git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify --quiet main || echo HEAD)'

# Each benchmark prints its table and ends with one line of JSON; it exits 1 when a target is missed.
bench-ordering: $(VENV)/.ready
	PYTHONPATH=tests $(BIN)/python tests/bench/bench_ordering.py

bench-retrieval: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/bench/bench_retrieval.py

bench-governor: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/bench/bench_governor.py

bench-gateway: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/bench/bench_gateway.py

bench-telemetry: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/bench/bench_telemetry.py

bench-recall: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/bench/bench_recall.py

# Kills every role in every stage, on SQLite and on PostgreSQL; about 20 minutes.
chaos: $(VENV)/.ready
	$(CLEAN_ENV) PYTHONPATH=tests $(BIN)/python tests/chaos/run_chaos.py

# Writes the gRPC modules again after a change of a contract.
generate: $(VENV)/.ready
	$(BIN)/python hatch_build.py

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal \
		--no-emit-index-url --generate-hashes --no-header --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .paperroute dist
