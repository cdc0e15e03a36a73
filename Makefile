# `make` lists the targets. Everything runs from .venv with the versions of constraints.txt.

# The first installed Python 3.11 or later.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready

export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Build dependencies use the same pins (pip 25.3 renamed the variable).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
# Some images set it; without stored bytecode, collecting the tests takes twice as much processor time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install install-light lock repro test unit format docs image push release-check release-files github-release \
	dev-up dev-down pipeline-local retrain
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

install: $(READY) ## create .venv with the versions of constraints.txt

install-light: ## create .venv for the workflow steps that only use the APIs of Kubeflow and GitHub: without torch
	@test -e $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/workflows.txt

COMPILE := uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-header --no-annotate \
	-c constraints.txt
EXTRAS := --extra launcher --extra tracking --extra serve --extra export
lock: ## write requirements/ from pyproject.toml and constraints.txt; requires uv
	@without=$$(mktemp) && echo 'torch; sys_platform == "never"' > "$$without" && \
	no="--overrides $$without --no-emit-package torch" && \
	$(COMPILE) $$no $(EXTRAS) pyproject.toml -o requirements/image.txt && \
	$(COMPILE) $$no $(EXTRAS) --extra dev --extra tensorboard pyproject.toml -o requirements/dev.txt && \
	$(COMPILE) requirements/build.in -o requirements/build.txt && \
	$(COMPILE) requirements/workflows.in -o requirements/workflows.txt && rm "$$without"

repro: $(READY) .dvc/plots.html ## run the pipeline of params.yaml; stages without changes are skipped
	@test -e .git || printf '[core]\n    no_scm = true\n' > .dvc/config.local  # an archive of the files, without Git
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

# Processes that run tests: one more than cores, because some tests wait; at most 8. Each has a single thread for torch.
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); test $$cores -lt 7 && echo $$((cores + 1)) || echo 8)
test: $(READY) .dvc/plots.html ## run all checks: style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright & types=$$!; $(BIN)/pytest --numprocesses $(WORKERS); tests=$$?; wait $$types && exit $$tests

unit: $(READY) ## run the fast tests
	$(BIN)/pytest --numprocesses $(WORKERS) -m "not slow"

format: $(READY) ## format the code and fix lint errors
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## build the documentation in site/
	$(BIN)/python scripts/reference.py
	$(BIN)/mkdocs build --strict
	$(BIN)/jupytext --quiet --to ipynb --output site/tutorial.ipynb docs/tutorial.md
	@$(BIN)/trm export --model demo --web site/demo || echo "the page Try it here lacks its solver" >&2

# DOCKER: docker, podman or buildah. IMAGE: name of the image. The others are build arguments of the Dockerfile.
DOCKER := docker
IMAGE := trm
BASE :=
BUILD_BASE :=
TORCH :=
TORCH_INDEX :=
COMPILER :=
image: ## build the container image; TORCH=cuda BASE=... for GPUs, COMPILER=yes for torch.compile, DOCKER=podman
	@revision=$$(git rev-parse HEAD 2>/dev/null) && test -z "$$(git status --porcelain)" || revision=dev; \
	tag=$$(printf %.7s "$$revision"); \
	$(DOCKER) build --tag "$(IMAGE):$$tag" --tag "$(IMAGE):latest" \
		$(foreach name,BASE BUILD_BASE TORCH TORCH_INDEX COMPILER,$(if $($(name)),--build-arg '$(name)=$($(name))')) \
		--build-arg "REVISION=$$revision" \
		--build-arg "VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" . && \
	$(DOCKER) images --no-trunc "$(IMAGE):$$tag"

# Registries delete images without a tag: a tag that never moves keeps each image that runs and champions refer to.
push: ## push the latest image, also under a permanent tag and TAG, and print its digest; IMAGE=registry.example.org/trm
	@tag=$$($(DOCKER) image inspect --format \
		'{{index .Config.Labels "org.opencontainers.image.revision"}} {{.Id}}' "$(IMAGE):latest" | \
		sed -nE 's/^([0-9a-z]{1,12})[0-9a-z]* (sha256:)?([0-9a-f]{12}).*/\1-\3/p') && test -n "$$tag" && \
	$(DOCKER) tag "$(IMAGE):latest" "$(IMAGE):$$tag" && \
	$(DOCKER) push "$(IMAGE):$$tag" && \
	$(DOCKER) push "$(IMAGE):latest" && \
	digest=$$($(DOCKER) image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$(IMAGE):$$tag" | \
		grep -F "$(IMAGE)@") && echo "$$digest" && \
	if [ -n "$$GITHUB_OUTPUT" ]; then echo "digest=$${digest##*@}" >> "$$GITHUB_OUTPUT"; fi && \
	if [ -n "$$TAG" ]; then $(DOCKER) tag "$(IMAGE):latest" "$(IMAGE):$$TAG" && $(DOCKER) push "$(IMAGE):$$TAG" >&2; fi

# TAG: that of the commit, such as v0.2.0. release.yml runs these three.
release-check: ## check that TAG is the version of pyproject.toml, and that the changelog describes it
	@"$(PYTHON)" scripts/release.py "$$TAG" > /dev/null

release-files: release-check ## write the wheel and the notes of release TAG to dist/
	@rm -rf dist && mkdir dist
	@"$(PYTHON)" scripts/release.py "$$TAG" > dist/notes.md
	@"$(PYTHON)" -m pip wheel -q --no-deps --wheel-dir dist .

github-release: ## publish dist/ as a release of the GitHub repository
	@gh release create "$$TAG" dist/*.whl dist/sbom.cdx.json --verify-tag --title "$$TAG" --notes-file dist/notes.md

dev-up: $(READY) ## start a local S3 server, with its data in .dev
	@$(BIN)/python -m pipeline.local.s3_server up

dev-down: $(READY) ## stop the local S3 server; its objects are kept
	@$(BIN)/python -m pipeline.local.s3_server down

pipeline-local: $(READY) ## run the pipeline in local Docker, with artifacts in the S3 server of dev-up
	@test -e .dev/env || { echo "no S3 server here; run make dev-up first" >&2; exit 2; }
	@. ./.dev/env && $(BIN)/python -m pipeline local --image "$(IMAGE):latest"

CLUSTER :=
retrain: $(READY) ## plan, run, collect, compare and promote on the cluster of params.yaml; CLUSTER=local: in local Docker
	@if [ -e .dev/env ]; then . ./.dev/env; fi; \
	$(BIN)/python -m pipeline retrain $(if $(filter local,$(CLUSTER)),--local --image "$(IMAGE):latest")

# uv is used where it is installed. It does not read the settings of pip, which serves where uv fails.
# pip may regard an interrupted installation as complete, so it is removed. The stamp file is written last.
$(READY): pyproject.toml constraints.txt requirements/dev.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is required; set its path: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@if [ -e .venv/.unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/.unfinished
	@test -e $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "Installing the versions of constraints.txt into .venv; the first installation takes a few minutes" >&2
	@packages() { "$$@" -c constraints.txt torch && \
		"$$@" --no-deps --require-hashes -r requirements/dev.txt && "$$@" --no-deps -e .; }; \
	{ command -v uv >/dev/null && packages uv pip install -q --python $(BIN)/python; } || \
		packages $(BIN)/python -m pip install -q
	@rm .venv/.unfinished && touch $@

# Template with which `dvc plots` works without a network.
.dvc/plots.html: scripts/plots_template.py $(READY)
	@$(BIN)/python scripts/plots_template.py
