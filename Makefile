# Two commands for a newcomer: `make quickstart` and `make test`.
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same package name, so only ever one of them
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: quickstart test test-slow lint clean

quickstart: $(VENV)/installed  ## install, then SFT, DPO and S-DPO on a built-in world, and their table
	$(BIN)/genrec run experiments/quickstart.py:comparison

test: $(VENV)/installed-test  ## the fast suite
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: $(VENV)/installed-test  ## everything that this machine can run
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict genrec

# The versions are pinned by the constraint file. torch first, and alone, so that its build is chosen before anything asks for it.
$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==$$(sed -n 's/^torch==//p' requirements.lock)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable '.[$(FAISS)]'
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --no-build-isolation --editable '.[$(FAISS),test]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
