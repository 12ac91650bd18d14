# make run · test · check · bench · fix — `make setup` is what each of them does first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS   ?= 2

LOCK   := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
  --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade

.PHONY: run test setup setup-dev check lint types imports bench fix lock clean

run: setup  ## the whole of Bursar with demo data on 127.0.0.1:8000
	@exec $(BIN)/bursar serve --demo

test: setup-dev  ## the whole suite; BURSAR_TEST_DATABASE_URL names an external PostgreSQL
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: lint types imports test  ## what CI runs

lint: setup-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup-dev
	@$(BIN)/mypy

imports: setup-dev
	@$(BIN)/lint-imports

bench: setup-dev  ## every performance claim, measured beside its peer
	@$(BIN)/python -m bench

fix: setup-dev  ## what a machine can put right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python docs/write_reference.py

setup: $(VENV)/runtime
setup-dev: $(VENV)/development

$(VENV)/runtime: requirements.lock pyproject.toml | $(VENV)/made
	@echo "installing Bursar" >&2
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/development: requirements-dev.lock $(VENV)/runtime
	@echo "installing the test tools" >&2
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@touch $@

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Bursar needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment in $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@touch $@

lock: setup-dev  ## after a change of pyproject.toml: newest versions, every platform, by hash
	@$(PIP) install "uv>=0.13,<0.14"
	@$(LOCK) --group build --output-file requirements.lock
	@$(LOCK) --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
