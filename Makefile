# `make up` runs the main job on this machine, without root; `make test` is the whole gate. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Files of tests at once: most wait for processes, so there may be more than processors.
WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile

# What tests/vm needs beside packages; elsewhere `make test` says that it leaves them out.
VMS := $(shell test "$$(id -u)" = 0 && unshare --mount --pid --fork true 2>/dev/null && echo yes)

.PHONY: help up down status test test-vm vm format bench messages packages clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

up: $(VENV)/up.stamp ## a local Azure host and the four processes, until Ctrl-C
	@$(BIN)/agentctl up

down: $(VENV)/up.stamp ## end what `make up` left behind
	@$(BIN)/agentctl down

status: $(VENV)/up.stamp ## components, host, extensions
	@$(BIN)/agentctl status

test: packages $(VENV)/dev.stamp $(if $(VMS),vm) ## format, lint, types, import direction, documents and every test
	@$(if $(VMS),:,echo "tests/vm and the power cuts are left out: they need root and namespaces")
	$(PYTEST) $(if $(VMS),,--ignore=tests/vm --ignore=tests/release/test_power_cuts.py)

test-vm: packages $(VENV)/dev.stamp vm ## the tests in VMs that networkd, NetworkManager or ifupdown manage
	$(BIN)/pytest tests/vm

vm: $(VENV)/dev.stamp
	@packaging/debian-packages.sh packaging/vm-packages.txt
	@$(BIN)/python tests/vm/rootfs.py

format: $(VENV)/dev.stamp ## write the code as the gate wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

messages: $(VENV)/dev.stamp ## write docs/messages.md from the contract
	$(BIN)/python docs/write_messages.py

bench: packages $(VENV)/dev.stamp ## measurements beside the reference agent
	$(BIN)/python -m bench.bus
	$(BIN)/python -m bench.goalstate
	$(BIN)/python -m bench.many
	$(BIN)/python -m bench.portal
	$(BIN)/python -m bench.rest
	$(BIN)/python -m bench.fleet
	$(BIN)/python -m bench.network
	$(BIN)/python -m bench.dhcp
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.update

packages: ## the Debian packages the tests use (installs them as root, else says which are missing)
	@packaging/debian-packages.sh packaging/test-packages.txt

clean: ## remove the virtual environment and the default root
	@test ! -x $(BIN)/agentctl || $(BIN)/agentctl down
	rm -rf $(VENV) .azvmagent .cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || packaging/debian-packages.sh packaging/up-packages.txt
	$(PYTHON) -m venv $(VENV)

$(VENV)/up.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[fabric]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/up.stamp
