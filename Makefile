# Everything that is done with this checkout. `make` alone explains it.
SHELL := /bin/bash
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
PYTEST_OPTIONS ?=
DESTDIR ?=
PREFIX ?= /usr/local
STAGE_OPTIONS ?=
SOURCES := guestmemfs_fuse tests scripts/demo.py scripts/demo_narrator.py scripts/stage scripts/soak.py \
	scripts/scale.py scripts/scale_mount.py scripts/scale_waits.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit mount guest clean install uninstall man deb wheel libvirt test-vm test-kexec test-kexec-luo kernel

help: ## Explain every target (this text)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTEST_OPTIONS=...    is passed to pytest (for example PYTEST_OPTIONS='-k rename -x')"
	@echo "  GUESTMEMFS_STRICT=1   makes a skipped test a failure (.ci/run does)"
	@echo "  GUESTMEMFS_CACHE=DIR  is where the guest kernel is kept (default: /var/cache/guestmemfs-fuse)"

setup: ## Install what is missing: apt packages, .venv with the package, the guest kernel
	@scripts/setup
	@scripts/guest-kernel >/dev/null

demo: setup ## The main job on a real QEMU guest, narrated and measured (root)
	@$(PYTHON) scripts/demo.py

test: setup check ## The whole fast suite: check, then unit, mount, guest and VM tests, a kexec among them (root)
	scripts/vm-setup
	$(PYTEST) $(PYTEST_OPTIONS) tests/unit tests/mount tests/guest tests/vm

check: setup ## Formatting, lint, types, and the direction of imports
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m mypy --strict
	$(PYTEST) -q tests/unit/test_imports.py

unit: setup ## Tests of the pure rooms: no root, no FUSE
	$(PYTEST) $(PYTEST_OPTIONS) tests/unit

mount: setup ## Tests on real mounts with the real daemon (root)
	$(PYTEST) $(PYTEST_OPTIONS) tests/mount

guest: setup ## Tests with a real QEMU guest (root)
	$(PYTEST) $(PYTEST_OPTIONS) tests/guest

install: setup ## Install command, units, mount helper, man pages, completion (DESTDIR=, PREFIX=)
	$(PYTHON) scripts/stage --destdir "$(DESTDIR)" --prefix "$(PREFIX)" $(STAGE_OPTIONS)

uninstall: setup ## Remove what install has put there (same DESTDIR=, PREFIX=); memory stays
	$(PYTHON) scripts/stage --list --destdir "$(DESTDIR)" --prefix "$(PREFIX)" $(STAGE_OPTIONS) | xargs -d '\n' rm -rf --

man: setup ## Write the man pages to dist/man
	$(PYTHON) -m guestmemfs_fuse.cli.man dist/man

deb: setup ## Build dist/guestmemfs-fuse_VERSION_ARCH.deb
	scripts/build-deb

wheel: setup ## Build wheel and sdist into dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")'

libvirt: setup ## A domain of a real libvirtd on a mount (root; installs libvirt)
	scripts/libvirt-setup
	$(PYTEST) $(PYTEST_OPTIONS) -m libvirt tests/mount

test-vm: setup ## All VM tests on stock kernels, also those `make test` leaves out (root, half an hour)
	scripts/vm-setup
	GUESTMEMFS_VM_TESTS=all $(PYTEST) $(PYTEST_OPTIONS) tests/vm

test-kexec: setup ## A guest goes through a real kexec on a stock kernel, RAM on fsdax (VM, some minutes)
	scripts/vm-setup
	$(PYTEST) -s $(PYTEST_OPTIONS) tests/vm/test_kexec_dax.py

test-kexec-luo: kernel ## The same with a memfd region and /dev/liveupdate (VM, kernel of make kernel)
	scripts/vm-setup
	$(PYTEST) -s $(PYTEST_OPTIONS) -m vm_luo tests/vm/test_luo.py tests/vm/test_kexec_luo.py tests/vm/test_survival.py

kernel: setup ## Build a kernel with the live update orchestrator (once, some ten minutes, cached outside)
	scripts/build-luo-kernel

clean: ## Remove what can be made again (.venv, caches of tools), nothing outside the tree
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: fuzz soak
FUZZ_SECONDS ?= 180
FUZZ_TARGETS ?= wire control journal snapshot
SOAK_MINUTES ?= 3

fuzz: setup ## Fuzz parsers and decoders, FUZZ_SECONDS in all (180), with atheris
	@$(PYTHON) -c 'import atheris' 2>/dev/null || $(PYTHON) -m pip install --quiet -e '.[fuzz]'
	@for target in $(FUZZ_TARGETS); do \
	    seconds=$$(( $(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)) )); \
	    echo "fuzz $$target for $$seconds s"; \
	    mkdir -p .cache/fuzz/$$target; \
	    $(PYTHON) -m tests.fuzz.run $$target $$seconds >.cache/fuzz/$$target/log 2>&1 \
	        || { tail -40 .cache/fuzz/$$target/log; echo "the input is .cache/fuzz/$$target/crash-*"; exit 1; }; \
	    grep -E 'number_of_executed_units|new_units_added' .cache/fuzz/$$target/log; \
	done

soak: setup ## Everything at once for SOAK_MINUTES (3): load, kills, restarts, freezes, remounts (root)
	@PYTHONPATH=. $(PYTHON) scripts/soak.py --minutes $(SOAK_MINUTES)

.PHONY: bench bench-full
BENCH := scripts/guest-kernel | { read -r kernel || exit 1; exec .venv/bin/guestmemfs bench --out docs/benchmarks --guest-kernel "$$kernel"

bench: bench-setup ## Benchmarks into docs/benchmarks, on a calm machine, under 10 minutes (root)
	@$(BENCH); }

bench-full: bench-setup ## The same with more rounds and sizes, the better part of an hour (root)
	@$(BENCH) --full; }

.PHONY: bench-setup
bench-setup: setup
	@$(PYTHON) -c 'import matplotlib' 2>/dev/null || $(PYTHON) -m pip install --quiet -e '.[bench]'

.PHONY: scale
scale: setup ## Time and memory of every structure at 4 TiB, then real mounts of 100,000 files, and who waits (root, minutes)
	@$(PYTHON) scripts/scale.py
	@$(PYTHON) scripts/scale_mount.py
	@$(PYTHON) scripts/scale_waits.py
