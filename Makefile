# Two commands set a user up: `make compare` and `make test`. Everything happens in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= runs/quick
JOBS ?= 2
BENCH ?=
BASE ?=

.PHONY: compare test test-slow drills test-cluster test-oldest bench bench-compare committed lint audit docs reports train clean

compare: $(STAMP)
	$(BIN)/icobench compare --preset quick --run $(RUN)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --durations 30

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Kills at every change of a folder, full disks, thousands of damaged files, hundreds of command lines.
drills: $(STAMP)
	$(BIN)/python -m pytest -m slow -s tests/test_drills.py tests/test_trouble.py tests/test_hostile.py tests/test_lines.py

# A SLURM of one node; needs root and Debian's packages.
test-cluster: $(STAMP)
	tests/cluster/one-node-slurm install
	$(BIN)/python -m pytest -m cluster

# The oldest dependencies that pyproject.toml allows, in an environment of their own. On Linux PyPI's torch of that
# age needs gigabytes of GPU libraries, which are left out: say where a build for CPUs is, PIP_EXTRA_INDEX_URL=...,
# or take another version, OLDEST_TORCH=2.13.0.
OLDEST_TORCH ?= $(shell sed -n 's/^torch==//p' constraints-oldest.txt)
test-oldest:
	test -x .venv-oldest/bin/python || python3.11 -m venv .venv-oldest
	grep -v '^torch==' constraints-oldest.txt > .venv-oldest/pins.txt
	.venv-oldest/bin/python -m pip install --quiet --no-deps --requirement .venv-oldest/pins.txt "torch==$(OLDEST_TORCH)"
	.venv-oldest/bin/python -c 'import torch' || \
		{ echo "test-oldest: this torch is no build for CPUs; see the Makefile" >&2; exit 1; }
	.venv-oldest/bin/python -m pip install --quiet --no-deps --editable .
	.venv-oldest/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile

# BENCH='-b Exact' chooses benchmarks. `bench` runs the package as it is installed, in place, and results belong
# to a commit, so the tree must be that commit.
bench: $(STAMP) committed
	$(BIN)/asv run --python=same --set-commit-hash "$$(git rev-parse HEAD)" $(BENCH)

# Measures BASE and HEAD in turns, round by round; fails if something is slower by more than the factor.
bench-compare: $(STAMP) committed
	@test -n "$(BASE)" || { echo "bench-compare: say with what, such as BASE=main" >&2; exit 1; }
	$(BIN)/asv continuous --environment checkout --interleave-rounds --factor 1.15 $(BENCH) "$(BASE)" HEAD

committed: $(STAMP)
	@test -z "$$(git status --porcelain)" || \
		{ echo "the tree has changes, but commits are measured" >&2; exit 1; }
	test -f $(HOME)/.asv-machine.json || $(BIN)/asv machine --yes

lint: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ruff mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known weaknesses of the pinned dependencies. Asks PyPI's database of them, so it needs a network.
audit:
	test -x .venv-audit/bin/pip-audit || { python3 -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit; }
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# The site, in site/: offline, and a broken link or a missing docstring is a failure. Notebooks are executed.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Figures and pages from the results stored in reports/; reports/README.md says how those were made.
reports: $(STAMP)
	$(BIN)/python reports/figure2.py
	$(BIN)/python reports/figure3.py
	$(BIN)/python reports/figure4a.py
	$(BIN)/python reports/figure4b.py
	$(BIN)/python reports/figure5.py
	$(BIN)/python reports/break_even.py
	$(BIN)/python reports/photon_numbers.py
	$(BIN)/python reports/physics.py
	$(BIN)/python reports/conventions.py
	$(BIN)/python reports/ablation.py --steps 500
	$(BIN)/python reports/fitters.py --page
	$(BIN)/python reports/scaling.py
	$(BIN)/python reports/live.py --page
	$(BIN)/python reports/tuned_network.py
	$(BIN)/python reports/told.py
	$(BIN)/python reports/posterior.py
	$(BIN)/python reports/bodies.py
	$(BIN)/python reports/amortised.py
	$(BIN)/python reports/claims.py
	$(BIN)/icobench report reports/laptop

train: $(STAMP)
	$(BIN)/icobench train --preset compact --run runs/train-compact

# torch first and pinned: an open range may bring gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "icobench needs Python 3.11 or later; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"torch==$$(sed -n 's/^torch==//p' constraints.txt)" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
