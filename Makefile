# Every target sets up what it needs: a fresh Debian or Ubuntu machine needs only make and Python >= 3.11.
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

check: lint test ## all checks

lint: $(READY) ## format, style, types, architecture, playbooks
	$(BIN)/ruff format --check . $(NODE_CODE)
	$(BIN)/ruff check . $(NODE_CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd playbooks && ../$(BIN)/ansible-lint --offline --profile production

# LAB=0 leaves out the tests that need root: for the Docker Engine of the test bed, nodes in containers, or a program
# that apt installs, such as the registry. Those tests mostly wait, so there are more workers than processors.
test test-long: export PYTHONDONTWRITEBYTECODE = # empty, so that the command keeps its compiled modules
test: $(READY) ## all tests; LAB=0 leaves out those on real nodes
	$(BIN)/pytest $(if $(filter 0,$(LAB)),-n auto -m 'not lab',-n 5)

test-long: $(READY) ## run the long tests PART=NAME in the background; without PART, list the names
	$(BIN)/python -m tests.run_long $(PART)

# The second half needs root and apt: it uses a real registry and nodes in containers. A rollout to 50 nodes:
# python -m bench.rollout 50; a semester of 50 nodes, with a crash: python -m bench.semester
bench: $(READY) ## measure selection, start, mirror listing and rollout, and compare with other tools
	$(BIN)/python -m bench

demo: $(READY) ## start a lab on this machine, roll out to it and leave it running
	$(BIN)/python -m tests.lab.demo up

demo-down: $(READY) ## remove the demo
	$(BIN)/python -m tests.lab.demo down

format: $(READY) ## format, and fix what ruff can fix
	$(BIN)/ruff format . $(NODE_CODE)
	$(BIN)/ruff check --fix . $(NODE_CODE)

lock: $(READY) ## resolve the dependencies again
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --upgrade --quiet --custom-compile-command 'make lock' -o requirements-dev.lock

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
