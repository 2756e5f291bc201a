# A fresh machine needs python3 (3.11 or later) and make; everything else is locked by hash and lives in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Every run starts a few processes; without cached bytecode each would compile all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

# A stamp is named after the digest of what it stands for: the second `make` does nothing, a changed lock is taken up by itself.
digest = $(shell cat $(1) | $(PYTHON) -c "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])")
LOCKED := .venv/.locked-$(call digest,requirements.txt requirements-uv.txt)
READY := .venv/.ready-$(call digest,requirements.txt requirements-uv.txt pyproject.toml)
PEERS := .venv-peers/.ready-$(call digest,requirements-peers.txt)

.PHONY: help setup demo test lint types docs peers bench lock clean

help: ## list the verbs
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 14

setup: $(READY) ## make .venv as locked; ends with .venv/bin/hindscan working

demo: setup ## the main job, end to end, on a throw-away project with a real Kafka
	$(BIN)/hindscan demo

# Two processes, each with a broker of its own: a file's tests stay together, as they share what it starts. Files go in the order of their names,
# so those of acceptance, which take longest, come first and small ones of units last: both processes end together.
# What fails beside others is run once more alone, and named: only what fails then, too, is refused.
test: setup ## every test; CI=true makes an absent service a failure
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder || $(BIN)/pytest -v --maxfail 3 --last-failed --last-failed-no-failures none

lint: setup ## rules, format and docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/house/docstrings.py

types: setup ## strict types over the package and jobs/
	$(BIN)/mypy src/hindscan $(wildcard jobs/*.py)

docs: setup ## run the examples in docstrings; prove that the pages are complete and their links resolve
	$(BIN)/pytest -q tests/house/test_docs.py tests/house/test_examples.py

peers: $(PEERS) ## make .venv-peers as locked: what the benchmarks compare hindscan with (Spark, Prefect)

bench: setup peers ## every measurement of benchmarks/, one after the other
	@shopt -s nullglob; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file"; done

lock: setup ## resolve anew what pyproject.toml asks for (keeps what still fits; UPGRADE=--upgrade takes the newest)
	$(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev --universal --generate-hashes --no-emit-index-url --python-version 3.11 $(UPGRADE) -o requirements.txt
	$(BIN)/uv pip compile -q benchmarks/peers.in --universal --generate-hashes --no-emit-index-url --python-version 3.11 $(UPGRADE) -o requirements-peers.txt

clean: ## remove what was made, but not the environments
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "hindscan needs Python 3.11 or later; this is " + sys.version + ". Run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

$(LOCKED): | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes requirements.txt
	rm -f .venv/.locked-* .venv/.ready-*
	touch $@

$(READY): | $(LOCKED)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation --editable .
	rm -f .venv/.ready-*
	touch $@

$(PEERS): | $(LOCKED)
	test -x .venv-peers/bin/python || $(PYTHON) -m venv --without-pip .venv-peers
	$(BIN)/uv pip sync -q --compile-bytecode --python .venv-peers/bin/python --require-hashes requirements-peers.txt
	rm -f .venv-peers/.ready-*
	touch $@
