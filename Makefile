# Everything runs in .venv, made on first use with nothing but Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# On Linux the torch of the default index brings gigabytes of CUDA libraries. An index in pip's configuration wins.
TORCH_INDEX ?= $(shell test "$$(uname)" != Linux || $(PYTHON) -m pip config list | grep -q 'index-url\|find-links' \
	|| echo https://download.pytorch.org/whl/cpu)
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test sweep matrix coverage check format bench docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/installed ## Create .venv and install the library with what its tests need

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing about 2.6 GB into .venv, which takes a few minutes; torch comes from $(or $(TORCH_INDEX),pip's index)."
	@$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[dev]'
	@echo "Installed $$(du -sh .venv | cut -f1) in .venv."
	@touch $@

demo: install ## Stream text from a small model, and rank sentences with all-MiniLM-L6-v2
	$(BIN)/python examples/demo.py

test: install ## Run the tests (about 20 minutes on 2 cores, offline)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --max-worker-restart 0 -m 'not sweep'

sweep: install ## Run the tests that make test leaves out: every architecture on the simulated card, 200 kills, the benchmark
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --max-worker-restart 0 -m sweep

matrix: install ## Run a smoke suite with the oldest and the newest versions that are allowed; ONLY=oldest,newest
	TORCH_INDEX='$(TORCH_INDEX)' PYTHONPATH=tests $(BIN)/python -m matrix.versions $(if $(ONLY),--only $(ONLY))

coverage: install ## Compare every architecture of transformers with Hugging Face; ONLY=llama,mamba FAMILY=causal_lm
	PYTHONPATH=tests $(BIN)/python -m architectures.coverage $(if $(FAMILY),--family $(FAMILY)) $(if $(ONLY),--only $(ONLY))

check: install ## Lint, and check format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Measure speed against Hugging Face and, where installed, OpenVINO GenAI and onnxruntime-genai
	$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks.run

docs: install ## Build the documentation into build/docs
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

clean: ## Remove what was built
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
