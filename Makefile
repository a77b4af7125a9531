# What a person runs. Everything happens in .venv, which is made, and made anew when setup.py or constraints.txt change.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
JAVA := default-jre-headless
SLURM := slurm-wlm slurm-wlm-basic-plugins munge
# SLURM's daemons lie where a plain user's PATH may not look.
export PATH := $(PATH):/usr/sbin:/sbin
# One thread a process: tests and the demo start several.
export OMP_NUM_THREADS ?= 1

.PHONY: install wheels demo test test-all check clean
.NOTPARALLEL:

install: $(STAMP)

# For a machine without network: copy this checkout with its folder `wheels` there (the same kind of processor and Python), and run
#     PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels make install
wheels:
	$(PYTHON) -m venv .wheels.venv
	.wheels.venv/bin/python -m pip install --upgrade --constraint constraints.txt pip setuptools
	.wheels.venv/bin/python -m pip wheel --wheel-dir wheels --constraint constraints.txt pip setuptools '.[dev]'
	rm -rf .wheels.venv wheels/megatron_mplug2-*

demo: $(STAMP)
	$(BIN)/mplug2 demo

# The short tests, under 15 minutes on 2 cores. A suite that takes far longer than it should is ended, so that a hang is told.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not long" --session-timeout 1500

# The short tests, then the long matrices and real launches. `make test test-all` runs the short ones once.
# A browser looks at the pages that the project writes, Java counts caption measures, and a SLURM of two nodes on this host runs jobs; without
# them those tests are skipped.
test-all: test
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends chromium; } || \
	  echo "no chromium, and none can be installed: tests that look at pages in a browser are skipped (apt-get install chromium)" >&2
	@command -v java >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends $(JAVA); } || \
	  echo "no Java, and none can be installed: tests of caption measures are skipped (apt-get install $(JAVA))" >&2
	@command -v slurmctld >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends $(SLURM); } || \
	  echo "no SLURM, and none can be installed: tests that submit jobs are skipped (apt-get install $(SLURM))" >&2
	$(BIN)/python -m pytest -m long --session-timeout 3600

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Build tools come from the constraints too, so that an old pip resolves and builds as a new one does.
$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y $(PYTHON)-venv; } || \
	  { echo "error: $(PYTHON) has no ensurepip: apt-get install $(PYTHON)-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .wheels.venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
