# What of the project is C
FROM python:3.11-slim-bookworm AS compiled
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev
WORKDIR /app
COPY pyproject.toml ./
COPY lsvcr/__init__.py lsvcr/*.[ch] lsvcr/
RUN touch README.md LICENSE && pip install --no-cache-dir --no-deps --target /compiled .

# The service: neither torch nor any other part of training is in it.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# A number, so that a cluster can check that it isn't root
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lsvcr \
    && install -d -o lsvcr /registry

WORKDIR /app

# Dependencies first: this layer is built again only when they change. The project itself is
# installed empty here but for its version, and its code is read from /app.
# `service-gpu` for NVIDIA GPUs
ARG EXTRA=service
COPY pyproject.toml constraints.txt docker/service.lock ./
COPY lsvcr/__init__.py lsvcr/
RUN touch README.md LICENSE \
    && if [ "$EXTRA" = service ]; then \
         pip install --require-hashes -r service.lock && pip install --no-deps .; \
       else pip install -c constraints.txt ".[$EXTRA,tracing]"; fi

COPY lsvcr lsvcr
COPY service service
COPY --from=compiled /compiled/lsvcr/*.abi3.so lsvcr/

USER 10001
EXPOSE 8000
ENV LSVCR_REGISTRY=/registry \
    LSVCR_HOST=0.0.0.0
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
CMD ["python", "-m", "service"]
