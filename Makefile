# Everything runs in .venv, which each target makes if it is missing or out of date. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

# The stamp is written last and holds the folder that .venv was made in: a half-made .venv, one that came here with a
# moved or copied clone, or one whose Python is gone counts as missing.
ifneq ($(shell test -x $(BIN)/python && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif

.PHONY: help setup demo test test-slow check fix bench lock clean torch-source FORCE
FORCE:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do
	    printf '  make %-10s %s\n' "$$name" "$$text"
	done

setup: $(STAMP) ## make .venv, or bring it up to date (any target does so by itself)
	@echo "$(VENV) is ready: $$($(BIN)/python --version), $$(du -sh $(VENV) | cut -f1)."

demo: $(STAMP) ## a made-up click log → preprocessing → training on two workers → test AUC, within five minutes
	@$(BIN)/python jobs/demo.py

check: $(STAMP) ## lint, format, types, layers: all four are run; fails if one does
	@failed=()
	$(BIN)/ruff check . || failed+=("ruff check (make fix mends some)")
	$(BIN)/ruff format --check . || failed+=("ruff format (make fix)")
	$(BIN)/mypy -n $(JOBS) || failed+=(mypy)
	if layers=$$($(BIN)/lint-imports 2>&1); then
	    sed -n 's/^Contracts: /Layers: /p' <<<"$$layers"
	else
	    sed -n '/^Contracts$$/,$$p' <<<"$$layers"; failed+=(lint-imports)
	fi
	if [ $${#failed[@]} -gt 0 ]; then
	    printf 'check: failed: %s\n' "$${failed[@]}" >&2
	    exit 1
	fi

fix: $(STAMP) ## format, and mend what ruff can mend
	@$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tests of one file stay together, as they share a Ray session, servers and data sets. The order of files is that of tests/conftest.py.
test: $(STAMP) ## all tests but the slow ones, JOBS=2 files at a time: some twenty-five minutes on two cores
	@$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP) ## the slow tests
	@$(BIN)/python -m pytest -m slow --timeout=1800 $(ARGS)

bench: $(STAMP) ## every script in benchmarks/
	@shopt -s nullglob
	scripts=(benchmarks/*.py)
	if [ $${#scripts[@]} -eq 0 ]; then echo "benchmarks/ holds no script yet."; fi
	for script in "$${scripts[@]}"; do echo "== $$script"; $(BIN)/python "$$script"; done

clean: ## remove .venv, caches and builds; runs/ and demo/ stay
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------------------------------

define say
printf '%s  %s\n' "$$(date +%H:%M:%S)"
endef

# $(call need_python): PYTHON has wheels for every pinned package and can make virtual environments.
define need_python
command -v $(PYTHON) >/dev/null || { \
    echo "setup: no '$(PYTHON)' on PATH. Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
    echo "setup: $(PYTHON) is $$($(PYTHON) --version 2>&1). The packages in requirements.lock have wheels for Python 3.11, 3.12 and 3.13 only." >&2; \
    echo "  Name one of these: make PYTHON=python3.11. Nothing was installed." >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "setup: $(PYTHON) cannot make virtual environments. Install its venv module (on Debian and Ubuntu the package python3-venv)." >&2; exit 1; }
endef

# $(call choose_torch,VENV): sets torch_source, and says which build of torch will be installed from where. The plain wheel for
# x86-64 Linux is built for CUDA and needs gigabytes of libraries. Only package metadata and uv (25 MB) are fetched here.
#   pip      pip itself finds the right build, with the user's configuration
#   uv       uv finds the CPU build in PyTorch's own index, which it knows
#   default  neither does: the CUDA build with the libraries it needs, which runs on CPUs too
define choose_torch
torch_source=pip; torch_pin="$$(sed -n 's/^torch==//p' requirements.lock)"; \
if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
    echo "torch: pip's build for $$(uname -sm), which is for CPUs."; \
elif grep -qF "$$torch_pin+cpu" <<<"$$($(1)/bin/python -m pip index versions torch 2>/dev/null)"; then \
    echo "torch: the CPU build $$torch_pin+cpu, which pip finds."; \
elif { test -x $(1)/bin/uv || $(1)/bin/python -m pip install -qq uv 2>/dev/null; } && \
    $(1)/bin/uv pip install -q --dry-run --python $(1)/bin/python --no-deps --torch-backend cpu "torch==$$torch_pin" 2>/dev/null; then \
    torch_source=uv; \
    echo "torch: pip finds no CPU build; uv fetches it from PyTorch's own index of CPU builds (200 MB)."; \
else \
    torch_source=default; \
    echo "torch: neither pip nor uv finds a CPU build; the default build is for CUDA and downloads 2.7 GB with its libraries. It works on CPUs too."; \
fi
endef

# $(call install_torch,VENV): installs torch from torch_source. With "pip" the requirements do it.
define install_torch
case $$torch_source in \
    uv) $(1)/bin/uv pip install -q --python $(1)/bin/python --no-deps --torch-backend cpu "torch==$$torch_pin" ;; \
    default) $(1)/bin/python -m pip install -qq -c requirements.lock "torch==$$torch_pin" ;; \
esac
endef

torch-source:
	@$(call choose_torch,$(VENV))

$(STAMP): requirements.lock pyproject.toml
	@trap 'echo "setup: failed; see above. Running make again starts afresh." >&2' ERR
	if [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ] || ! cmp -s requirements.lock $(VENV)/requirements.lock; then
	    $(call need_python)
	    rm -rf $(VENV)
	    $(say) "making $(VENV) with $$($(PYTHON) --version)"
	    $(PYTHON) -m venv $(VENV)
	    $(call choose_torch,$(VENV))
	    # First the build tool, so that source packages and ctrdist itself are built with the pinned one.
	    $(BIN)/python -m pip install -qq --no-deps "$$(grep '^setuptools==' requirements.lock)"
	    $(say) "installing $$(grep -c == requirements.lock) pinned packages: a few minutes, 2.2 GB on disk without CUDA"
	    $(call install_torch,$(VENV))
	    $(BIN)/python -m pip install -qq --no-deps --no-build-isolation -r requirements.lock
	    $(say) "trying torch and torchrec"
	    $(BIN)/python -W ignore -c 'import torch, torchrec' || {
	        echo "setup: torch or torchrec does not load here; see the error above." >&2
	        exit 1
	    }
	    cp requirements.lock $(VENV)/requirements.lock
	fi
	rm -f $@
	$(say) "installing ctrdist in place"
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	printf '%s' '$(CURDIR)' > $@

lock: ## write requirements.lock anew from pyproject.toml, with the newest versions that fit
	@$(call need_python)
	rm -rf build/lock
	$(say) "making build/lock"
	$(PYTHON) -m venv build/lock
	$(call choose_torch,build/lock)
	test $$torch_source != default || { echo "lock: needs the CPU build, or the lock would name CUDA packages." >&2; exit 1; }
	$(call install_torch,build/lock)
	$(say) "resolving and installing: some minutes"
	# torchrec without its dependencies; pyproject.toml says why.
	build/lock/bin/python -m pip install -qq -e '.[cpu,dev]'
	build/lock/bin/python -m pip install -qq --no-deps "$$(sed -n 's/.*"\(torchrec==[^"]*\)".*/\1/p' pyproject.toml)"
	{
	    echo '# The whole CPU environment, exactly. Written by `make lock`, installed by `make setup` with --no-deps: the list is'
	    echo '# complete, and torchrec would ask for the CUDA build of FBGEMM (see pyproject.toml).'
	    build/lock/bin/python -m pip freeze --all --exclude pip --exclude uv --exclude ctrdist | sed 's/^torch==\([0-9.]*\)+cpu/torch==\1/'
	} > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build/lock
	$(say) "requirements.lock: $$(grep -c == requirements.lock) packages"
