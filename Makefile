# Every target sets up its own virtual environment first; nothing else is needed but Python.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/ready

.PHONY: help setup demo demo-video demo-mae smoke test test-all aot wheel-test check format clean

help:  ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $(READY)

setup: $(READY)  ## The virtual environment

demo: $(READY)  ## Pre-train, fine-tune and evaluate on drawn pictures: minutes, no download
	$(RUN) demo.py

demo-video: $(READY)  ## The same on videos
	$(RUN) demo.py --video

demo-mae: $(READY)  ## A masked autoencoder on videos
	$(RUN) main.py --config=configs/demo_mae.py --workdir=runs/demo_mae

smoke: $(READY)  ## Half a minute of pre-training
	$(RUN) main.py --config=configs/smoke.py --workdir=runs/smoke

test: $(READY)  ## The tests of every behaviour: minutes
	$(RUN) -m pytest -n auto --maxprocesses=8 --dist=worksteal

test-all: $(READY)  ## Also long series of kills and damage, every mesh, networks of size L
	$(RUN) -m pytest -n auto --maxprocesses=8 --dist=worksteal -m "not original and not compilers"

AOT = $(VENV)-aot

aot:  ## Every recipe compiled for TPUs and GPUs that are not there: hours; docs/accelerators.md
	$(MAKE) setup VENV=$(AOT)
	$(AOT)/bin/python -m pip install --quiet "jax[tpu]" "jax[cuda12]"
	$(AOT)/bin/python -m pytest -m compilers
	$(AOT)/bin/python -m bench.accelerators

wheel-test:  ## The wheel, installed into an empty environment: two minutes
	PYTHON=$(PYTHON) .ci/wheel_test

check: $(READY)  ## Lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)  ## Format in place
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

.PHONY: notebook
notebook: $(READY)  ## docs/notebook.ipynb from docs/notebook.md
	$(RUN) docs/make_notebook.py
