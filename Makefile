# make warmstart runs the study, make test runs the tests; both make their environment first.
.SHELLFLAGS := -eu -c
# What a folder's name may have and an environment's path may not: % stops MLflow there, : cuts PATH. The environment
# then lies in the user's cache, and .venv is a link to it.
ODD := $(findstring %,$(CURDIR))$(findstring :,$(CURDIR))
ELSEWHERE := "$${XDG_CACHE_HOME:-$$HOME/.cache}/cnnsim_tf/$$(pwd | cksum | tr -d ' ')"
PYTHON = $(if $(ODD),"$$(readlink -f .venv)/bin/python",.venv/bin/python)
# The lock file that the environment was made from, which stays until another one is asked for.
MADE := $(or $(shell cat .venv/.complete 2>/dev/null),requirements.lock)
LOCK := $(if $(GPU),requirements-gpu.lock,$(if $(BENCH),requirements-bench.lock,$(MADE)))
# Whoever looks on sees how far an installation is.
QUIET := $(if $(MAKE_TERMOUT),,--quiet)
# Options of the study: make warmstart P="-P repeats=3 -P level=0"
P ?=
# Options of the benchmark: make bench B="--rounds 3 --section training"
B ?=
CODE := cnnsim_tf entrypoints tests benchmarks
PORT ?= 5000
RUN ?=

.PHONY: help .venv warmstart sweep report noising subset_training similarity test test-fast kills lint format ui bench lock clean

help:
	@echo "make warmstart   the whole study; P=\"-P repeats=3\" passes parameters (noising, subset_training, similarity too)"
	@echo "make sweep       the study at noise levels 0 to 2; P=\"-P parameter=epochs -P values=1,3,6\" sweeps another parameter"
	@echo "make report      open the report of the newest warm start or sweep (RUN=id for another run)"
	@echo "make ui          browse its runs and models at http://127.0.0.1:$(PORT) (PORT=5001 for another port)"
	@echo "make test        all tests (make test-fast: without what starts processes or takes seconds)"
	@echo "make kills N=100 kill studies of light steps at random moments (STEPS=real: of the real ones) and compare"
	@echo "make lint        style, types, direction of imports"
	@echo "make bench       speed of the project and of its peers where they are installed; B=\"--help\" lists options,"
	@echo "                 B=\"--against COMMIT\" compares whole studies and noises with those of a commit"
	@echo "make .venv       the environment that all of these use (GPU=1: with the CUDA libraries; BENCH=1: with PyTorch"
	@echo "                 and JAX, the peers in make bench)"
	@echo "make lock        pin every dependency anew after a change of pyproject.toml"

.venv: .venv/.complete

# The last thing written, so that a killed installation is not taken for an environment.
.venv/.complete: $(LOCK) $(if $(filter $(LOCK),$(MADE)),,FORCE)
	@echo "making the environment in .venv: $(if $(GPU)$(BENCH),up to 8 GB and some minutes,2.5 GB and about a minute)"
	@rm -rf .venv; env=.venv; \
	if [ -n "$(ODD)" ]; then env=$(ELSEWHERE); rm -rf "$$env"; mkdir -p "$$env"; ln -s "$$env" .venv; fi; \
	if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then \
	    uv venv --quiet --allow-existing --python 3.11 "$$env" && \
	    uv pip sync $(QUIET) --compile-bytecode --python "$$env/bin/python" $(LOCK); \
	else \
	    for p in python3.11 python3 python; do \
	        if $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then found=$$p; break; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	        echo "No Python 3.11 here (TensorFlow 2.15 needs it): install python3.11 or uv, then run make again." >&2; \
	        exit 1; \
	    fi; \
	    $$found -m venv "$$env" && "$$env/bin/python" -m pip install $(QUIET) --no-deps -r $(LOCK); \
	fi
	@echo $(LOCK) >$@

FORCE:

warmstart sweep noising subset_training similarity: .venv
	@PATH="$$(readlink -f .venv)/bin:$$PATH" MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" \
	    MLFLOW_HTTP_REQUEST_MAX_RETRIES=2 python -m mlflow run . -e $@ --env-manager local --experiment-name cnnsim_tf $(P)

# Three processes on two cores, since tests of servers that are away wait.
test: .venv
	$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: .venv
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# Kills studies at N random moments; STEPS=real kills those of the real steps, SEED=1 at other moments.
kills: .venv
	KILLS=$(or $(N),100) $(PYTHON) -m pytest -q -s -p no:warnings tests/test_kills.py

lint: .venv
	.venv/bin/ruff check $(CODE)
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv
	.venv/bin/ruff check --fix $(CODE)
	.venv/bin/ruff format $(CODE)

ui: .venv
	@echo "Open http://127.0.0.1:$(PORT) (Ctrl-C stops it)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(PYTHON) -m mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 \
	    --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

report: .venv
	@$(PYTHON) -m entrypoints.report $(RUN)

bench: .venv
	$(PYTHON) -m benchmarks $(B)

lock:
	uv pip compile --quiet --universal --python-version 3.11 --no-header --extra dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --no-header --extra dev --extra gpu -c requirements.lock \
	    pyproject.toml -o requirements-gpu.lock
	uv pip compile --quiet --universal --python-version 3.11 --no-header --extra dev --extra bench -c requirements.lock \
	    pyproject.toml -o requirements-bench.lock

clean:
	rm -rf $(if $(ODD),$(ELSEWHERE)) .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
