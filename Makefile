# Two commands set everything up: `make demo` and `make test`. The rest is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# all is locked, so nothing is resolved; what is used is compiled at its first import
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
STAMP := $(VENV)/.installed
TRAIN := $(VENV)/.installed-train
# the build for processors alone: the one from the package index brings gigabytes for graphics cards
TORCH := torch==2.13.0
TORCH_INDEX := https://download.pytorch.org/whl/cpu

# where no bytecode is kept, each of the hundreds of processes of the tests compiles all it imports
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint bench bench-exams bench-gateway bench-preferences bench-rewriting bench-scale soak fuzz lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(STAMP): requirements-pip.lock requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Comity needs Python 3.11 or newer; give one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements-pip.lock || \
		echo "pip stays as it is: an old one takes a minute longer"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(TRAIN): $(STAMP) requirements-train.lock
	@echo "Installing what training needs …"
	@$(INSTALL) --require-hashes -r requirements-train.lock
	@$(INSTALL) --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
		echo "torch cannot be loaded ($(TORCH_INDEX) was not reached?): its tests are skipped"; \
		$(BIN)/python -m pip uninstall --quiet --yes torch; }
	@touch $@

demo: $(STAMP) ## install, fetch the local model, and show the main job with it
	@$(BIN)/comity models pull
	@$(BIN)/python examples/demo.py $(if $(COMPARE),--compare,)

test: $(TRAIN) ## install, and run the whole test suite with the checks of style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@# tests wait for processes now and then: mypy works beside them, and is heard after them
	@$(BIN)/mypy >$(VENV)/mypy.txt 2>&1 & types=$$!; \
		trap 'kill $$types 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
		$(BIN)/pytest -n 2 --dist worksteal; tests=$$?; \
		wait $$types; types_wrong=$$?; cat $(VENV)/mypy.txt; \
		test $$tests -eq 0 && test $$types_wrong -eq 0

bench: $(STAMP) ## measure retrieval, speed and embedding; prints a table, writes benchmarks/results
	@$(BIN)/comity models pull
	@$(BIN)/python -m benchmarks.retrieval $(if $(DATA),--data $(DATA),)

bench-exams: $(STAMP) ## put samples of OPO's exams to the local model (hours): DATA=… RUNS=…
	@$(BIN)/comity models pull
	@$(BIN)/python -m benchmarks.exams --data $(DATA) --runs $(or $(RUNS),runs) $(ARGS)

bench-gateway: $(STAMP) ## measure what the gateway adds, beside LiteLLM's proxy and Portkey's: ARGS=…
	@$(BIN)/python -m benchmarks.gateway $(ARGS)

bench-preferences: $(STAMP) ## put the preference exam to the local model in several ways (hours): RUNS=… ARGS=…
	@$(BIN)/comity models pull
	@$(BIN)/python -m benchmarks.preferences --runs $(or $(RUNS),runs) $(ARGS)

bench-scale: $(STAMP) ## a million rules, beside OPO's way, LanceDB and milvus-lite: RUNS=… ARGS=…
	@$(BIN)/python -m benchmarks.scale --runs $(or $(RUNS),runs/scale) $(ARGS)

bench-rewriting: $(STAMP) ## what rewriting questions brings to the search: DATA=…
	@$(BIN)/comity models pull
	@$(BIN)/python -m benchmarks.rewriting --data $(DATA) $(ARGS)

soak: $(STAMP) ## an hour of mixed load on the gateway: does anything grow? MINUTES=…
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60) $(ARGS)

fuzz: $(STAMP) ## generated requests to every operation, and 100,000 at once of many tenants: EXAMPLES=… REQUESTS=…
	@COMITY_FUZZ=$(or $(EXAMPLES),200) COMITY_TENANTS=all COMITY_CROSSING=$(or $(REQUESTS),100000) \
		$(BIN)/pytest -n 0 -s tests/test_openapi.py tests/test_tenants.py

lock: ## renew the locked requirements (needs uv)
	echo pip | uv pip compile --universal --generate-hashes --python-version 3.11 --upgrade \
		--no-header --quiet -o requirements-pip.lock -
	uv pip compile --universal --generate-hashes --python-version 3.11 --extra local --extra exams \
		--extra inspect --extra serve --extra litellm --extra langchain --extra llamaindex \
		--extra mcp --extra postgres --extra milvus --extra ray --extra dev --no-header --quiet -o requirements.lock pyproject.toml
	@# torch comes from an index of its own, so the lock has all that is needed besides it
	printf 'torch ; sys_platform == "none"\n' > $(VENV)/no-torch.txt
	printf '%s\n' accelerate datasets gguf llguidance peft safetensors transformers trl \
		fsspec jinja2 networkx setuptools sympy | uv pip compile --universal --generate-hashes \
		--python-version 3.11 --constraint requirements.lock --override $(VENV)/no-torch.txt \
		--no-header --quiet -o requirements-train.lock -

clean: ## remove what the commands above installed and made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
