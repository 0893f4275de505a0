# Every target does its own set-up: a fresh Debian or Ubuntu machine needs only make and Python >= 3.11.
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE_CODE := playbooks/library playbooks/module_utils

.PHONY: help check lint test test-long bench demo demo-down lock format clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

$(READY): requirements-dev.lock pyproject.toml .ci/venv
	.ci/venv $(VENV)
	@touch $@

check: lint test ## the whole gate

lint: $(READY) ## format, style, types, architecture, playbooks
	$(BIN)/ruff format --check . $(NODE_CODE)
	$(BIN)/ruff check . $(NODE_CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd playbooks && ../$(BIN)/ansible-lint --offline --profile production

# LAB=0 leaves out the tests that need root, an engine of their own and nodes in containers. Those mostly wait for one
# another's parts, so more of them are at work than there are processors.
test test-long: export PYTHONDONTWRITEBYTECODE = # or each start of the command would compile all of it again
test: $(READY) ## the whole suite, real parts included; LAB=0 leaves those out
	$(BIN)/pytest $(if $(filter 0,$(LAB)),-n auto -m 'not lab',-n 4)

test-long: $(READY) ## what is too long for every commit, in the background: PART=NAME; without it, the names
	$(BIN)/python -m tests.run_long $(PART)

# Root and apt are needed by its second half: a real registry, and nodes in containers. 50 nodes: python -m bench.rollout 50;
# their whole semester, with a crash in it: python -m bench.semester
bench: $(READY) ## selection, start, a look at a mirror, a rollout: how each grows, beside other tools
	$(BIN)/python -m bench

demo: $(READY) ## a whole lab on this one machine, left running
	$(BIN)/python -m tests.lab.demo up

demo-down: $(READY) ## takes the demo away again
	$(BIN)/python -m tests.lab.demo down

format: $(READY) ## mends format and what ruff can
	$(BIN)/ruff format . $(NODE_CODE)
	$(BIN)/ruff check --fix . $(NODE_CODE)

lock: $(READY) ## resolves the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --upgrade --quiet --custom-compile-command 'make lock' -o requirements-dev.lock

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
