# Two commands do everything: `make demo` and `make test`. Another environment: `make demo VENV=/path`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test lint test-full clean lock licences audit

help:
	@echo "make demo       build all assets up to report and benchmark on the synthetic sample (installs first)"
	@echo "make test       lint, types, import contracts, definitions, tests, the sample pipeline (installs first)"
	@echo "make test-full  the same with the long tests: fuzzing, kills"
	@echo "make lock       write requirements.lock again, after a change of pyproject.toml (asks the package index)"
	@echo "make licences   write docs/licences.md again, after a change of requirements.lock"
	@echo "make audit      look for known vulnerabilities in what is locked (asks a database on the network)"
	@echo "make install    environment $(VENV) from requirements.lock"
	@echo "make clean      remove everything that demo and test have made, except the environment"

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python {v.major}.{v.minor} is not supported: name another one, make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	# A package that differs from the one that was locked is refused. The lock is complete, so nothing else may come along.
	$(BIN)/pip install --quiet --no-compile --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	# pip would compile on one core. Some packages bring files that are no valid Python: those are left.
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $@

# The databases are made once, before anything runs: two first runs at once would race for it.
.dagster/.ready: $(VENV)/.installed
	$(BIN)/har init
	mkdir -p .dagster && touch $@

demo: $(VENV)/.installed .dagster/.ready
	$(BIN)/dagster asset materialize -m har_assets --select "$$($(BIN)/python -m har_assets.graph.stage)"
	@echo
	@$(BIN)/har status

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	# The graph as a code server loads it. DAGSTER_HOME: the telemetry of `dg` is off in dagster.yaml.
	DAGSTER_HOME=$(CURDIR) $(BIN)/dg check defs

# A process a core (tests that share something costly stay in one), so one thread each.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --no-loadscope-reorder

test: lint
	$(PYTEST) -m 'not slow'

test-full: lint
	$(PYTEST)

# Versions and hashes of everything, the tools for development included. What is pinned already keeps its version; to
# take newer ones, remove their lines first. Linux x86-64, Python 3.11 to 3.13 (tested on 3.11).
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet 'uv>=0.9'
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --extra pretrained --generate-hashes --no-annotate \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' \
		--quiet --output-file requirements.lock

licences: $(VENV)/.installed
	$(BIN)/python -m tools.licences > docs/licences.md

# Not part of `make test`: it asks the vulnerability database of PyPI, and its answer changes without a commit.
# --strict: a package about which the database gives no answer fails it, and is named. Without --strict it would count
# as one without known vulnerabilities.
audit: $(VENV)/.installed
	$(BIN)/python -m venv .venv-audit
	.venv-audit/bin/pip install --quiet 'pip-audit>=2.9'
	.venv-audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

clean:
	chmod -R u+w data 2>/dev/null || true
	rm -rf data artifacts .dagster mlflow.db mlartifacts mlflow_outbox .dvc/cache .dvc/tmp
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
