# `make` lists the targets. Everything runs from .venv with the versions of constraints.txt.

# The first Python here that is new enough.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready

export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tools that build packages are held by the same pins (two names: pip changed it in version 25.3).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: help install repro test unit format docs image push dev-up dev-down pipeline-local retrain
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

install: $(READY) ## .venv with the versions of constraints.txt, and nothing more

repro: $(READY) .dvc/plots.html ## data, training and scores of params.yaml; only what has changed is done again
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

test: $(READY) .dvc/plots.html ## every check: style, types, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest

unit: $(READY) ## the tests that take a moment
	$(BIN)/pytest -m "not slow"

format: $(READY) ## fix the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## the documentation, as a website in site/
	$(BIN)/python scripts/reference.py
	$(BIN)/mkdocs build --strict

# Docker, podman or buildah, and the image's name; the others are build arguments of the Dockerfile, explained there.
DOCKER := docker
IMAGE := trm
BASE :=
BUILD_BASE :=
TORCH :=
TORCH_INDEX :=
image: ## the container image of every stage; TORCH=cuda BASE=… for GPUs, DOCKER=podman
	@revision=$$(git rev-parse HEAD 2>/dev/null) && test -z "$$(git status --porcelain)" || revision=dev; \
	tag=$$(printf %.7s "$$revision"); \
	$(DOCKER) build --tag "$(IMAGE):$$tag" --tag "$(IMAGE):latest" \
		$(foreach name,BASE BUILD_BASE TORCH TORCH_INDEX,$(if $($(name)),--build-arg '$(name)=$($(name))')) \
		--build-arg "REVISION=$$revision" \
		--build-arg "VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" . && \
	$(DOCKER) images --no-trunc "$(IMAGE):$$tag"

push: ## push what `make image` built last; IMAGE=registry.example.org/trm
	$(DOCKER) push "$(IMAGE):latest"

dev-up: $(READY) ## start an S3 server on this machine, in .dev
	@$(BIN)/python -m pipeline.local.s3_server up

dev-down: $(READY) ## stop it; its objects are kept
	@$(BIN)/python -m pipeline.local.s3_server down

pipeline-local: $(READY) ## the pipeline in Docker on this machine: image trm:latest, artifacts in the S3 of dev-up
	@test -e .dev/env || { echo "no S3 server here; run make dev-up first" >&2; exit 2; }
	@. ./.dev/env && $(BIN)/python -m pipeline local --image "$(IMAGE):latest"

CLUSTER :=
retrain: $(READY) ## plan, run, collect, compare, promote: on params.yaml's cluster, or CLUSTER=local in Docker here
	@if [ -e .dev/env ]; then . ./.dev/env; fi; \
	$(BIN)/python -m pipeline retrain $(if $(filter local,$(CLUSTER)),--local --image "$(IMAGE):latest")

# What an interrupted installation leaves may look whole to pip, so it is thrown away. The stamp comes last.
$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@if [ -e .venv/.unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/.unfinished
	@test -e $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "Installing the versions of constraints.txt into .venv; the first time takes some minutes" >&2
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@rm .venv/.unfinished && touch $@

# What lets `dvc plots` draw without a network.
.dvc/plots.html: scripts/plots_template.py $(READY)
	@$(BIN)/python scripts/plots_template.py
