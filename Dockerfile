# One image for every stage: the installed package, and the entry point of the pipeline's components.
#
# CPU:  make image
# GPU:  make image TORCH=cuda BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
#       (torch 2.13.0 brings its own libraries of CUDA 13; not run here, for want of a GPU and of that base)
# Bases of the Debian family serve, with a Python of 3.11 or later or with one to be had by apt.

ARG BASE=python:3.11.14-slim-bookworm
# What the packages are installed on: BASE, or BASE with what a closed network needs for it (wheels, pip's settings,
# certificates). It has the same Python; nothing else of it reaches the image.
ARG BUILD_BASE=${BASE}


FROM ${BUILD_BASE} AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }
# pip stands beside what it installs, so that it stays out of the image.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/trm

# What changes least comes first: torch, the other packages, our own code.
WORKDIR /build
COPY constraints.txt .
ENV PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
ARG TORCH=cpu
# Where torch's CPU build for Linux lies; empty where pip's settings know one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ "${TORCH}" != cpu ]; then TORCH_INDEX=; fi \
    && /opt/pip/bin/pip --python /opt/trm install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch \
    && /opt/trm/bin/python -W ignore -c 'import sys, torch; \
        wanted, built = sys.argv[1], "cuda" if torch.version.cuda else "cpu"; \
        sys.exit(wanted != built and f"TORCH={wanted} was asked for, but pip found the {built} build, torch \
{torch.__version__}; TORCH is cpu or cuda, see TORCH_INDEX")' "${TORCH}"

COPY pyproject.toml .
RUN /opt/pip/bin/python -c 'import pathlib, tomllib; \
        project = tomllib.loads(pathlib.Path("pyproject.toml").read_text()); \
        own = project["project"]; \
        packages = own["dependencies"] + own["optional-dependencies"]["launcher"]; \
        pathlib.Path("packages.txt").write_text("\n".join(packages)); \
        pathlib.Path("builders.txt").write_text("\n".join(project["build-system"]["requires"]))' \
    && /opt/pip/bin/pip install -r builders.txt \
    && /opt/pip/bin/pip --python /opt/trm install -r packages.txt \
    # Nobody runs the packages' own tests here or compiles against them. Importing torch wants torch_shm_manager.
    && find /opt/trm/lib -type d \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \
        -o -path '*/pyarrow/include' \) -prune -exec rm -r {} + \
    && find /opt/trm/lib -path '*/torch/bin/*' ! -name torch_shm_manager -type f -delete

# Our own code is a layer of its own, laid over the packages.
COPY README.md LICENSE ./
COPY trm trm
COPY recipes recipes
COPY components /app/components
RUN /opt/pip/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /build . \
    && /opt/pip/bin/pip --python /opt/trm install --no-deps --prefix /opt/code /build/*.whl \
    && PYTHONPATH="$(echo /opt/code/lib/python3*/site-packages)" /opt/pip/bin/pip --python /opt/trm check \
    # A checkout's files may be closed to others; here every user reads them.
    && chmod -R a+rX /app


FROM ${BASE}

RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 \
        && apt-get clean && rm -rf /var/lib/apt/lists/*; }
# The one folder that is written to; a volume or tmpfs goes here where the root file system is read-only.
RUN mkdir -m 1777 /cache

COPY --from=build /opt/trm /opt/trm
COPY --from=build /opt/code /opt/trm
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/trm/bin:${PATH} \
    HOME=/cache TMPDIR=/cache XDG_CACHE_HOME=/cache \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# By number, so that Kubernetes sees that it is not root; any other number serves too.
USER 10001:10001
# Every module is there and finds what it imports.
RUN trm --help > /dev/null \
    && TRM_CACHE_DIR=/tmp/check MPLCONFIGDIR=/tmp/check python -c 'import importlib, pkgutil, trm, components.run_summary.summary, components.run; \
        import components.train.launcher, components.train.job_status, components.train.worker; \
        modules = (module.name for module in pkgutil.walk_packages(trm.__path__, "trm.")); \
        [importlib.import_module(name) for name in modules if name != "trm.__main__"]' \
    && rm -r /tmp/check

# No ENTRYPOINT: it would go in front of the command of a pipeline's container.
CMD ["trm", "--help"]

ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="trm" \
      org.opencontainers.image.description="Train and evaluate Tiny Recursive Models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
