# `make help` says what there is. All that a fresh machine needs for `make demo` and `make test` is Python 3.11 or newer, make and bash.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test simulate check bench proto proto-baseline lock tools venv clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | while IFS=$$'\t' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

demo: venv ## make thumbnails of photographs and watch (PHOTOS=DIR: your own; OUT=DIR: where to; ONCE=1: end when done)
	@exec .venv/bin/python -m examples.thumbnails.demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(OUT),--out "$(OUT)") $(if $(filter-out 0,$(ONCE)),--once) $(ARGS)

test: venv ## run the tests (ARGS="-k name": some of them; JOBS=1: in one process)
	@.ci/test $(ARGS)

simulate: venv ## run SEEDS=1000 seeds of brokers, workers and a store with faults under virtual time (FROM=1: the first; ARGS="--keep-going")
	@PYTHONHASHSEED=0 .venv/bin/python -m tests.simulation --seeds $(or $(SEEDS),1000) --from $(or $(FROM),1) $(ARGS)

check: venv ## lint, types, contract, generated code: all that needs no running system
	@.ci/tools npm
	@.ci/check $(ONLY)

bench: venv ## measure beside BullMQ: a table, and JSON in bench/results
	@bench/run $(ARGS)

proto: venv ## generate the Python code of proto/jobwire/v1
	@proto/generate.sh

proto-baseline: ## take the contract as it is now for the one that must not be broken (at a release)
	@.ci/tools npm
	@cd proto && ../.tools/npm/node_modules/.bin/buf build --exclude-source-info -o baseline.binpb

lock: venv ## choose the newest versions that pyproject.toml allows and write requirements.lock
	@.ci/tools uv
	@.tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --generate-hashes --upgrade --no-header \
	    --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

tools: venv ## install the checkers that are not Python packages into .tools
	@.ci/tools npm grpcurl

venv: # .venv as requirements.lock has it
	@.ci/venv

clean: ## delete what make has made
	rm -rf .venv .tools out .jobwire .mypy_cache .pytest_cache .ruff_cache .hypothesis
