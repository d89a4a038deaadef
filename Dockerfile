# Two images. `online` runs ingestor, forecaster, API and exporter; `offline` runs Dagster, MLflow and trainings.
# docs/deploy.md has the commands and the sizes. The base needs Python 3.11 or 3.12 with its module venv, and apt.
ARG BASE=python:3.11.14-slim-bookworm

# Tools of the build: nothing of this stage but tini is in an image. A builder behind a registry of its own hands in two
# secrets: `ca`, a bundle of certificates, and `registries`, lines as PIP_INDEX_URL=..., for pip, uv and npm.
FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_LINK_MODE=copy UV_NO_CACHE=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'tini=0.19.*' \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN printf '%s\n' \
    'if [ -f /run/secrets/ca ]; then' \
    '  export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca NODE_EXTRA_CA_CERTS=/run/secrets/ca' \
    'fi' \
    'if [ -f /run/secrets/registries ]; then set -a; . /run/secrets/registries; set +a; fi' > registries
COPY requirements-build.txt ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=registries \
    . ./registries \
    && python3 -m venv venv \
    && venv/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt
ENV PATH=/build/venv/bin:$PATH

# Scripts of the live page, by the lock of npm.
FROM tools AS page
COPY online/http/static/package.json online/http/static/package-lock.json ./page/
RUN --mount=type=secret,id=ca --mount=type=secret,id=registries \
    . ./registries && npm ci --prefix page --ignore-scripts --no-audit --no-fund

FROM tools AS online-build
COPY requirements-online.txt ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=registries \
    . ./registries \
    && python3 -m venv --without-pip /app/.venv \
    && uv pip sync --require-hashes --compile-bytecode --python /app/.venv/bin/python requirements-online.txt
WORKDIR /app
COPY --from=page /build/page/node_modules .venv/browser/node_modules
COPY LICENSE pyproject.toml ./
COPY data data
COPY online online
COPY monitoring monitoring
# `generic`: the compiled code runs on every processor of the architecture.
RUN .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash data online monitoring \
    && NUMBA_CACHE_DIR=/app/numba-cache NUMBA_CPU_NAME=generic VAR_DIR=/tmp .venv/bin/python -m data.process.precompile \
    && chmod -R a+rX,go-w /app

FROM tools AS offline-build
COPY requirements-offline.txt ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=registries \
    . ./registries \
    && python3 -m venv --without-pip /app/.venv \
    && uv pip sync --require-hashes --compile-bytecode --python /app/.venv/bin/python requirements-offline.txt
WORKDIR /app
COPY LICENSE pyproject.toml requirements.txt workspace.yaml ./
COPY data data
COPY online online
COPY offline offline
COPY monitoring monitoring
COPY orchestration orchestration
RUN .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash data online offline monitoring orchestration \
    && NUMBA_CACHE_DIR=/app/numba-cache NUMBA_CPU_NAME=generic VAR_DIR=/tmp .venv/bin/python -m data.process.precompile \
    && chmod -R a+rX,go-w /app

# What both images share. The root may be read-only: only /var/lib/cryptovol and /tmp are written.
FROM ${BASE} AS runtime
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/* \
        /usr/lib/python3.*/ensurepip /usr/share/python-wheels \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -x 'lib2to3|/test' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && groupadd --gid 10001 cryptovol \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cryptovol \
        --shell /usr/sbin/nologin cryptovol \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/cryptovol
# tini is process 1: it ends a Python that gets SIGTERM during its imports, and reaps orphans.
COPY --from=tools /usr/bin/tini-static /usr/bin/tini
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/app/numba-cache \
    NUMBA_CPU_NAME=generic \
    VAR_DIR=/var/lib/cryptovol
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM runtime AS offline
COPY --from=offline-build /app /app
CMD ["python", "-m", "orchestration.webserver"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "data.process.alive", "http://127.0.0.1:3001/server_info"]

FROM runtime AS online
COPY --from=online-build /app /app
CMD ["python", "-m", "online.api"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "data.process.alive", "http://127.0.0.1:8000/health/live"]
