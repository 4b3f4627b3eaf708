# One image for all services and the command: `docker run … cdds scheduler`, `docker run … cdds cdds topics ensure`.
# Everything is installed from lock files with hashes; a package index of your own comes in as the build secret `pip`
# (a pip.conf), which no layer keeps.

FROM python:3.11-slim AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/image/runtime.lock /build/
RUN python -m venv --without-pip /opt/cdds
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip --python /opt/cdds/bin/python install --require-hashes --only-binary :all: --requirement /build/runtime.lock


FROM python:3.11-slim AS wheel
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/image/build.lock /build/
RUN python -m venv /opt/build
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip install --require-hashes --only-binary :all: --requirement /build/build.lock
COPY pyproject.toml README.md LICENSE /build/
COPY shared /build/shared
COPY services /build/services
COPY cli /build/cli
COPY deploy /build/deploy
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheel /build


FROM python:3.11-slim AS cdds
ARG SERVICE=""
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="CDDS" \
      org.opencontainers.image.description="Self-hosted, event-driven export of contact-centre data" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The folder gives new volumes their owner.
RUN groupadd --gid 10001 cdds \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cdds \
 && install --directory --owner 10001 --group 10001 --mode 750 /var/lib/cdds
# What changes seldom first: a change of the code makes only the small layer anew. The C extension is optional on other
# machines; here it has to be there.
COPY --from=dependencies /opt/cdds /opt/cdds
RUN --mount=type=bind,from=wheel,source=/build/wheel,target=/wheel \
    pip --python /opt/cdds/bin/python --no-cache-dir --disable-pip-version-check install --no-deps /wheel/*.whl \
 && /opt/cdds/bin/python -c "import services.exporter.pipeline._rows"
ENV PATH=/opt/cdds/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp CDDS_SERVICE=${SERVICE} \
    CDDS_JOB_API_HTTP_HOST=0.0.0.0 CDDS_JOB_API_HTTP_PORT=8000 \
    CDDS_SCHEDULER_HTTP_HOST=0.0.0.0 CDDS_SCHEDULER_HTTP_PORT=8000 \
    CDDS_EXPORTER_HTTP_HOST=0.0.0.0 CDDS_EXPORTER_HTTP_PORT=8000 \
    CDDS_HISTORY_HTTP_HOST=0.0.0.0 CDDS_HISTORY_HTTP_PORT=8000 \
    CDDS_CONSOLE_HTTP_HOST=0.0.0.0 CDDS_CONSOLE_HTTP_PORT=8000
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/cdds/lib/python3.11/site-packages/deploy/image/health.py"]
ENTRYPOINT ["python", "-m", "deploy.image"]


# With what makes and checks the demo's data: numpy, a data set, and the stock tools of a recipient.
FROM cdds AS demo
USER root
RUN apt-get update \
 && apt-get install --yes --no-install-recommends openssl unzip \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/image/build.lock deploy/image/demo.lock /tmp/
# The data set comes as a source distribution.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    install="pip --python /opt/cdds/bin/python --no-cache-dir --disable-pip-version-check install --require-hashes" \
 && $install --only-binary :all: --requirement /tmp/build.lock \
 && $install --prefer-binary --no-build-isolation --requirement /tmp/demo.lock \
 && rm /tmp/*.lock
USER 10001:10001


# What `docker build .` makes.
FROM cdds
