# One command each; the first of them makes .venv and installs pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup bench reproduce readme test lint type format micro gpu clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv with pinned versions

# torch comes first and exact: a later install must find it satisfied, never replace it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "libra needs Python 3.11 to 3.13; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[engine,plot,report,server,study,dev]'
	touch $@

bench: setup  ## the main job: compare policies on chatbot, in simulation at paper scale, then on the real CPU engine
	$(BIN)/libra bench --workload chatbot --device sim:h800 --model llama3-8b --cache-fraction 0.4 --out runs/bench-sim
	$(BIN)/libra bench --workload chatbot --device cpu --out runs/bench-cpu

reproduce: setup  ## the paper's evaluation, figure by figure (20 minutes on two cores; SCALE=--quick for three)
	$(BIN)/libra reproduce $(SCALE)

readme: setup  ## README.md, its plot and results/ from the committed rows
	$(BIN)/python -m bench.readme

test: setup  ## the test suite, a file at a time on each of two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy, strict
	$(BIN)/mypy

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

micro: setup  ## the micro-benchmarks behind results/micro
	mkdir -p runs
	$(BIN)/python -m pytest bench/micro --benchmark-only --benchmark-json=runs/micro.json

# From a plain checkout too: whatever Python is there, with torch, triton, transformers, peft, xxhash and pyarrow, will do.
gpu:  ## all that is measured on a GPU, in under 9 minutes, to results/gpu/<device>; PEER_VLLM=DIR adds vLLM's kernels
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu.run_all $(if $(PEER_VLLM),--peer-vllm $(PEER_VLLM))

clean:  ## remove the environment and caches; what runs/ and models/ hold is yours
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis .benchmarks
