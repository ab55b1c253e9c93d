# The only task runner. It needs git, make and Python 3.11 or newer; everything else comes from the lock files.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/sh

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Stamps: a target that needs tools installs them once, and again only when a lock or pyproject.toml changes.
RUN := $(VENV)/.stamp-studio
DEV := $(VENV)/.stamp-dev
BENCH := $(VENV)/.stamp-bench
MUTANTS := $(VENV)/.stamp-mutants
OLDER := $(VENV)/sqlalchemy20
STUDIO := STUDIO_ENV=$${STUDIO_ENV:-development} PYTHONPATH=examples $(PY) -m studio

PORT ?= 5000
ARGS ?=
# Processes for the tests. A file stays in one of them: the snippets of a page build upon each other.
JOBS ?= 2
TYPED := $(wildcard src examples tests/typing)
STRICT := $(wildcard tests/typing)

.PHONY: help
help: ## Show this list.
	@printf 'usage: make <target>\n\n'
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sort | awk -F ':.*## ' '{ printf "  %-17s %s\n", $$1, $$2 }'

.PHONY: studio
studio: $(RUN) ## Serve the studio at http://127.0.0.1:5000 (PORT=8000 for another port).
	@$(STUDIO) serve --port "$(PORT)"

.PHONY: import
import: $(RUN) ## Import a catalogue into the studio: make import FILE=paints.csv
	@test -n "$(FILE)" || { echo 'make import needs a file: make import FILE=paints.csv' >&2; exit 2; }
	@$(STUDIO) import "$(FILE)"

.PHONY: test
test: $(DEV) ## Run all tests, doctests and documentation snippets (ARGS="tests/cache -x" for some).
	@$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.PHONY: test-sqlalchemy20
test-sqlalchemy20: $(OLDER)/.stamp ## Run the database's tests on SQLAlchemy 2.0 instead of the locked version.
	@export PYTHONPATH=$(CURDIR)/$(OLDER); $(PY) -c 'from sqlalchemy import __version__ as v; print("SQLAlchemy", v); assert v < "2.1"' && \
		$(PY) -m pytest -n $(JOBS) --dist loadfile $(or $(ARGS),tests/sqlalchemy)

.PHONY: check
check: lint types architecture docs ## Lint, format, types, architecture and documentation.

.PHONY: lint
lint: $(DEV) ## Check style and formatting.
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

.PHONY: format
format: $(DEV) ## Format the code and apply the safe fixes.
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

.PHONY: types
types: $(DEV) ## Check types: mypy on the code, mypy and pyright on the typing tests.
	@$(PY) -m mypy $(TYPED)
	@test -z "$(STRICT)" || $(VENV)/bin/basedpyright

.PHONY: architecture
architecture: $(DEV) ## Check that imports point down the layers.
	@$(VENV)/bin/lint-imports

.PHONY: docs
docs: $(DEV) ## Build the documentation into site/.
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

.PHONY: bench
bench: $(BENCH) ## Measure everything beside its rivals: happy paths, then caches (ARGS="retry" for some happy paths).
	@$(PY) -m tests.benchmarks $(ARGS)
	@$(if $(ARGS),:,$(PY) -m tests.benchmarks.caches)

.PHONY: bench-caches
bench-caches: $(BENCH) ## Measure caches beside their rivals: hit ratio, stampedes, memory (ARGS="memory" for one).
	@$(PY) -m tests.benchmarks.caches $(ARGS)

.PHONY: mutants
mutants: $(MUTANTS) ## Break the machines in a copy and show what no test notices: minutes (ARGS="breaker" for one).
	@nice -n 10 $(PY) -m tests.mutants $(ARGS)

.PHONY: lock
lock: $(DEV) ## Resolve the lock files anew for Python 3.11 and later (ARGS=--upgrade for newer versions).
	@$(LOCK) --all-extras --group dev --output-file requirements/dev.txt $(ARGS)
	@$(LOCK) --extra studio --group build --constraints requirements/dev.txt --output-file requirements/studio.txt
	@if grep -nE '^ *(-|.*(file:|[^ ]+ @ ))' requirements/dev.txt requirements/studio.txt | grep -v -- '--hash='; \
		then echo 'the lock names a place of this machine' >&2; exit 1; fi
LOCK = $(VENV)/bin/uv pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 \
	--generate-hashes --default-index https://pypi.org/simple --custom-compile-command 'make lock'

.PHONY: wheel
wheel: $(DEV) ## Build the wheel into dist/.
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

.PHONY: clean
clean: ## Remove the environment, caches and everything built (the studio's data stays).
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A shim that is on PATH but does not run (pyenv) or is too old is passed over: each candidate must say its version.
$(PY):
	@for python in python3.14 python3.13 python3.12 python3.11 python3 python; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		if "$$python" -m venv $(VENV) >/dev/null 2>&1; then echo "using $$($$python --version)"; exit 0; fi; \
		rm -rf $(VENV); broken="$$python"; \
	done; \
	if [ -n "$$broken" ]; then \
		echo "$$broken cannot make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; \
	else \
		echo 'paintkit needs Python 3.11 or newer on PATH (as python3.14 … python3.11 or python3), and found none' >&2; \
	fi; exit 1

$(RUN): requirements/studio.txt pyproject.toml | $(PY)
	@echo 'installing the studio …'
	@$(PIP) install --require-hashes --requirement requirements/studio.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The development lock holds the studio's too, at the same versions.
$(DEV): requirements/dev.txt requirements/studio.txt pyproject.toml | $(PY)
	@echo 'installing the development tools …'
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(RUN) $@

$(BENCH): tests/benchmarks/requirements.txt $(DEV)
	@echo 'installing the rivals …'
	@$(PIP) install --requirement tests/benchmarks/requirements.txt
	@touch $@

$(MUTANTS): tests/mutants/requirements.txt $(DEV)
	@echo 'installing what breaks the machines …'
	@$(PIP) install --requirement tests/mutants/requirements.txt
	@touch $@

# Beside the environment, not in it: whoever comes first on PYTHONPATH is imported.
$(OLDER)/.stamp: requirements/sqlalchemy20.txt $(DEV)
	@echo 'installing SQLAlchemy 2.0 …'
	@rm -rf $(OLDER)
	@$(PIP) install --no-deps --target $(OLDER) --requirement requirements/sqlalchemy20.txt
	@touch $@
