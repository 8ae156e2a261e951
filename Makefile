# Everything is installed into .venv; nothing else on the machine is touched.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ENGINE ?= $(shell for engine in docker podman buildah; do \
	$$engine info >/dev/null 2>&1 && echo $$engine && break; done)
TORCH_INDEX ?=
MODEL ?= models/starter
PORT ?= 8000
BASE ?=
IMAGE ?= ner-service
NAME ?= candidates
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup check test serve bench golden image

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## install everything into .venv (TORCH_INDEX=URL for a particular build of torch)

$(READY): pyproject.toml training/pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv; the first time takes a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[serve,train,dev,ocr]' --editable ./training
	@touch $@

check: $(READY)  ## formatting, lint, types, walls, Dockerfile
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

serve: $(READY)  ## serve a bundle (MODEL=models/starter PORT=8000)
	NER_MODEL=$(MODEL) $(BIN)/ner-service serve --port $(PORT)

bench: $(READY)  ## run a benchmark (NAME=candidates ARGS=...; benchmarks/README.md lists them)
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

golden: $(READY)  ## rewrite the golden files; read the difference before you commit it
	$(BIN)/python -m tests.golden

image:  ## build the container image by docker, podman or buildah (ENGINE, BASE, TORCH_INDEX, IMAGE)
	@test -n "$(ENGINE)" || { echo "a working docker, podman or buildah is needed; see docs/container.md" >&2; exit 1; }
	$(ENGINE) build $(if $(filter-out docker,$(ENGINE)),--format docker) --tag $(IMAGE) \
		$(if $(BASE),--build-arg BASE=$(BASE)) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) .
