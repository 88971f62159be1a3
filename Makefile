# Two commands for a newcomer: `make quickstart` and `make test`. `make help` lists the others.
PYTHONS := 3.11 3.12 3.13
PYTHON ?= $(shell for version in $(PYTHONS); do python$$version -c '' 2>/dev/null && echo python$$version && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same package name, so only one of them is installed.
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements.lock
EDITABLE := $(INSTALL) --no-build-isolation --editable
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
# Print the path of python$version; fail if it is missing or makes no environments. pyenv starts it only if a release is chosen.
FIND_PYTHON = PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | grep "^$$version\.[0-9]*$$" | tail -1) \
	python$$version -c 'import ensurepip, sys; print(sys.executable)' 2>/dev/null
# The packages and tests of `make test-wheel`: reading of source code and of command lines, a training, a plug-in's check.
WHEEL_PACKAGES := pytest pytest-timeout hypothesis pyyaml
WHEEL_TESTS := tests/test_source_hash.py tests/test_overrides.py tests/test_check_command.py tests/test_conformance_losses.py \
	tests/training/test_checkpoint.py tests/data/test_data_frames.py
# Print the elapsed time since the shell variable `began`.
ELAPSED = echo "done in $$(($$(date +%s) - began)) s"

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-pythons test-wheel lint format notebooks hooks docs wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*  ## /\1@/p' Makefile | awk -F@ '{ printf "make %-12s %s\n", $$1, $$2 }'

install: $(VENV)/installed  ## create .venv and install genrec with the pinned versions

quickstart: $(VENV)/installed  ## install, run the quick start and print its table (about 7 minutes on 2 CPU cores)
	$(BIN)/genrec run experiments/quickstart.py:comparison

test: $(VENV)/installed-test  ## run the fast tests (about 14 minutes on 2 CPU cores)
	@echo "Running the fast tests: about 14 minutes on 2 idle CPU cores, one process with one thread on each core, at most 8."
	$(TEST) -m "not slow and not gpu"

test-slow: $(VENV)/installed-test  ## run every test that this machine can run
	$(TEST)

test-pythons:  ## run the fast tests on each supported Python of this machine, in .venv-3.11, .venv-3.12 and .venv-3.13
	@failed=; for version in $(PYTHONS); do \
	program=$$($(FIND_PYTHON)) || { echo "This machine has no python$$version with ensurepip: left out."; continue; }; \
	echo "Testing with $$program in $(VENV)-$$version."; \
	$(MAKE) --no-print-directory test PYTHON=$$program VENV=$(VENV)-$$version || failed="$$failed $$version"; done; \
	test -z "$$failed" || { echo "The tests failed on Python$$failed."; exit 1; }

test-wheel: wheel  ## install the wheel on each other supported Python of this machine, and run commands and a few tests with it
	@failed=; own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in $(PYTHONS); do test $$version != $$own || continue; \
	program=$$($(FIND_PYTHON)) || { echo "This machine has no python$$version with ensurepip: the wheel is not tested on it."; continue; }; \
	echo "Installing the wheel with $$program in $(VENV)-wheel."; began=$$(date +%s); \
	rm -rf $(VENV)-wheel; $$program -m venv $(VENV)-wheel && \
	$(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet --constraint requirements.lock \
		$$(echo dist/*.whl)[$(FAISS),report] $(WHEEL_PACKAGES) && \
	$(VENV)-wheel/bin/python tests/installed_package.py && \
	env --unset PYTHONPATH PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 $(VENV)-wheel/bin/pytest -m "not slow and not gpu" $(WHEEL_TESTS) && \
	$(ELAPSED) || failed="$$failed $$version"; rm -rf $(VENV)-wheel; done; \
	test -z "$$failed" || { echo "The wheel fails on Python$$failed."; exit 1; }

lint: $(VENV)/installed-test  ## check style, formatting, types and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict genrec
	$(BIN)/hadolint Dockerfile

format: $(VENV)/installed-test  ## fix style and formatting where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/installed-test  ## execute all notebooks in place and keep their outputs (about 4 minutes of processor time)
	$(BIN)/python notebooks/execute.py

hooks: $(VENV)/installed-dev  ## run the lint checks at every commit (pre-commit)
	$(BIN)/pre-commit install

docs: $(VENV)/installed-docs  ## build docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

wheel: $(VENV)/installed  ## build dist/genrec-*.whl
	rm -rf build dist
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean:  ## remove .venv, .venv-*, caches and everything that was built; data/ stays
	rm -rf $(VENV) $(VENV)-wheel $(PYTHONS:%=$(VENV)-%) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/_build *.egg-info

# The lock is a constraint file. torch is installed first and alone, so that its build is chosen before another package requires it.
# The sizes were measured on x86-64 Linux with Python 3.11.
$(VENV)/installed: requirements.lock pyproject.toml
	@echo "Creating $(VENV) and installing torch $(TORCH), faiss-$(FAISS) and about 50 other packages."
	@echo "CPU build of torch: about 0.4 GB to download, 1.7 GB on disk. CUDA build (pip's default on Linux): about 3 GB and 6 GB."
	@echo "The first installation takes minutes; later calls reuse it."
	@began=$$(date +%s); set -e; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(INSTALL) torch==$(TORCH); \
	$(INSTALL) setuptools; \
	$(EDITABLE) '.[$(FAISS)]'; \
	touch $@; $(ELAPSED)

$(VENV)/installed-test: $(VENV)/installed
	@echo "Installing about 70 packages for tests, lint and types: about 0.16 GB to download, 0.7 GB on disk."
	@began=$$(date +%s); set -e; $(EDITABLE) '.[$(FAISS),test]'; touch $@; $(ELAPSED)

$(VENV)/installed-dev: $(VENV)/installed-test
	@echo "Installing pre-commit and 7 other packages: about 10 MB to download."
	@began=$$(date +%s); set -e; $(EDITABLE) '.[$(FAISS),test,dev]'; touch $@; $(ELAPSED)

$(VENV)/installed-docs: $(VENV)/installed
	@echo "Installing Sphinx and about 25 other packages for the documentation: about 20 MB to download."
	@began=$$(date +%s); set -e; $(EDITABLE) '.[$(FAISS),docs]'; touch $@; $(ELAPSED)
