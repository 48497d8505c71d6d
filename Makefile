# Targets install .venv first if it is missing.
SHELL := /bin/sh
PYTHON ?= python3
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
READY := .venv/.ready
# Two test files at a time, in the order of tests/conftest.py.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
UV := .venv/bin/python tools/run_uv.py
COMPILE := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.PHONY: help setup cluster doctor demo test test-slow test-all repro ui report serve faults bench lint \
	audit-deps plots-page format lock clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install the locked environment into .venv

$(READY): requirements.lock pyproject.toml
	@echo "Installing the locked environment into .venv (about 6 GB; once)."
	@test -d .venv || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/^    # via/p' requirements.lock | .venv/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-cache-dir --require-hashes -r /dev/stdin
	@$(UV) pip install --python .venv --require-hashes --compile-bytecode -r requirements.lock
	@$(UV) pip install --python .venv --no-deps --no-build-isolation -e .
	@touch $(READY)

cluster: $(READY) ## add Ray to .venv, for sweeps on many machines (about 250 MB)
	@$(UV) pip install --python .venv --require-hashes -r requirements-cluster.lock

doctor: ## check this machine and say how to fix problems; works before setup
	PYTHONPATH=src $(firstword $(wildcard .venv/bin/python) $(PYTHON)) -m cxr.doctor

demo: $(READY) ## run the whole pipeline on synthetic X-rays in .demo/ (minutes, no network)
	cxr demo

repro: $(READY) ## run every stage whose inputs changed (dvc repro), and print a summary
	cxr repro

ui: $(READY) ## open all runs in MLflow; DEMO=1 for the demo, PORT=5000
	cxr ui $(if $(DEMO),--demo) --port $(or $(PORT),5000)

report: $(READY) ## write all results to one page, reports/index.html; DEMO=1 for the demo
	cxr report $(if $(DEMO),--demo)

serve: $(READY) ## serve the best model over HTTP; DEMO=1 for the demo, PORT=5001
	cxr serve $(if $(DEMO),--demo) --port $(or $(PORT),5001)

test: $(READY) ## run the fast tests
	$(PYTEST)

test-slow: $(READY) ## run the slow tests: pipelines, the README's commands, a browser
	$(PYTEST) -m slow

test-all: test test-slow ## run all tests

faults: $(READY) ## kill stages, break stores and disks, and print what is lost; ARGS=--help
	PYTHONPATH=src:tests python -m faults $(ARGS)

bench: $(READY) ## measure speed as ratios to straightforward code; QUICK=1 for two minutes
	PYTHONPATH=tests python -m bench $(if $(QUICK),--quick)

plots-page: $(READY) ## rebuild .dvc/plots/page.html with the locked version of Vega
	python .dvc/plots/page.py

lint: $(READY) ## run ruff, mypy and bandit
	ruff check .
	ruff format --check .
	mypy
	bandit --quiet --configfile pyproject.toml --recursive src stages bench

audit-deps: $(READY) ## check requirements.lock for known vulnerabilities (needs a network)
	$(UV) tool run pip-audit --disable-pip --require-hashes -r requirements.lock

format: $(READY) ## format the code
	ruff check --fix .
	ruff format .

lock: $(READY) ## resolve pyproject.toml into the lock files (needs a network)
	$(COMPILE) --extra s3 --extra dev pyproject.toml -o requirements.lock
	@sed -n '/^cluster = /,/^]/s/^ *"\(.*\)".*/\1/p' pyproject.toml | \
	  $(COMPILE) --constraint requirements.lock - -o requirements-cluster.lock

clean: ## remove .venv and the demo; keep results
	rm -rf .venv .demo
