# Image of all stages: the installed package, and the entry points of the pipeline's components.
#
# CPU:  make image
# GPU:  make image TORCH=cuda BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
#       (torch 2.13.0 contains its own CUDA 13 libraries; this build is untested)
# torch.compile (`train.compile: true`) needs a compiler, which the image has only with COMPILER=yes:
#       make image COMPILER=yes
# The base must be of the Debian family, with Python 3.11 or later installed or available from apt.

# By digest (of the multi-platform index), so that a build is the same later.
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
# Base of the build stage: BASE, or BASE with the wheels, pip configuration and certificates of a private network. It must
# have the same Python as BASE. None of its other files reach the image.
ARG BUILD_BASE=${BASE}


FROM ${BUILD_BASE} AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }
# pip has its own environment, so that it is not part of the image.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/trm

# Layers in the order of change frequency: torch, other packages, project code.
WORKDIR /build
COPY constraints.txt .
ENV PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
ARG TORCH=cpu
# Package index with torch's CPU build for Linux; empty if pip is configured with one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ "${TORCH}" != cpu ]; then TORCH_INDEX=; fi \
    && /opt/pip/bin/pip --python /opt/trm install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch \
    && /opt/trm/bin/python -W ignore -c 'import sys, torch; \
        wanted, built = sys.argv[1], "cuda" if torch.version.cuda else "cpu"; \
        sys.exit(wanted != built and f"TORCH={wanted} requested, but pip installed the {built} build, torch \
{torch.__version__}; set TORCH to cpu or cuda, or see TORCH_INDEX")' "${TORCH}"

COPY requirements/image.txt requirements/build.txt requirements/
ARG COMPILER=
# Every file has its digest in these lists, except torch, whose digest depends on the index.
RUN /opt/pip/bin/pip install --require-hashes -r requirements/build.txt \
    && /opt/pip/bin/pip --python /opt/trm install --no-deps --require-hashes -r requirements/image.txt \
    # Remove the packages' tests and headers. torch.compile includes torch's headers; importing torch requires
    # torch_shm_manager.
    && find /opt/trm/lib -type d \( -name tests -o -path '*/torch/test' -o -path '*/pyarrow/include' \) -prune \
        -exec rm -r {} + \
    && if [ -z "${COMPILER}" ]; then rm -r /opt/trm/lib/python3*/site-packages/torch/include; fi \
    && find /opt/trm/lib -path '*/torch/bin/*' ! -name torch_shm_manager -type f -delete

# Project code, a separate layer on top of the packages.
COPY pyproject.toml README.md LICENSE ./
COPY trm trm
COPY recipes recipes
COPY components /app/components
RUN /opt/pip/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /build . \
    && /opt/pip/bin/pip --python /opt/trm install --no-deps --prefix /opt/code /build/*.whl \
    && PYTHONPATH="$(echo /opt/code/lib/python3*/site-packages)" /opt/pip/bin/pip --python /opt/trm check \
    # Files of a checkout may be unreadable for other users.
    && chmod -R a+rX /app


FROM ${BASE}

RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 \
        && apt-get clean && rm -rf /var/lib/apt/lists/*; }
# A compiler and the headers of Python, unless the base contains them.
ARG COMPILER=
RUN if [ -n "${COMPILER}" ] && ! { command -v g++ > /dev/null && test -e \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }; then \
        apt-get update && apt-get install -y --no-install-recommends g++ python3-dev \
        && apt-get clean && rm -rf /var/lib/apt/lists/*; fi
# The only writable folder. With a read-only root file system, mount a volume or tmpfs here.
RUN mkdir -m 1777 /cache

COPY --from=build /opt/trm /opt/trm
COPY --from=build /opt/code /opt/trm
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/trm/bin:${PATH} \
    HOME=/cache TMPDIR=/cache XDG_CACHE_HOME=/cache \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1

# Numeric, so that Kubernetes can verify that the user is not root. Any other uid works too.
USER 10001:10001
# Check that all modules can be imported.
RUN trm --help > /dev/null \
    && TRM_CACHE_DIR=/tmp/check MPLCONFIGDIR=/tmp/check python -c 'import importlib, pkgutil, trm, components.run; \
        import components.run_summary.summary; import components.train.launcher, components.train.job_status, components.train.worker; \
        modules = (module.name for module in pkgutil.walk_packages(trm.__path__, "trm.")); \
        [importlib.import_module(name) for name in modules if name != "trm.__main__"]' \
    && rm -r /tmp/check

# No ENTRYPOINT: kfp.local's DockerRunner would run it in front of the component's command.
CMD ["trm", "--help"]

ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="trm" \
      org.opencontainers.image.description="Train and evaluate Tiny Recursive Models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
