# Everything happens in .venv, which each target makes when it is missing or out of date. `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

# The stamp is written last and holds the folder that .venv was made in: a half-made .venv, one that came here with a
# moved or copied clone, or one whose Python is gone counts as missing.
ifneq ($(shell test -x $(BIN)/python && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif

.PHONY: help setup demo test test-slow check fix bench lock clean FORCE
FORCE:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do
	    printf '  make %-10s %s\n' "$$name" "$$text"
	done

setup: $(STAMP) ## make .venv, or bring it up to date (any target does so by itself)
	@echo "$(VENV) is ready: $$($(BIN)/python --version), $$(du -sh $(VENV) | cut -f1)."

demo: $(STAMP) ## a made-up click log → preprocessing → training on two workers → test AUC, within five minutes
	@$(BIN)/python jobs/demo.py

check: $(STAMP) ## lint, format, types, layers: runs all four, fails when one does
	@failed=()
	$(BIN)/ruff check . || failed+=("ruff check (make fix mends some)")
	$(BIN)/ruff format --check . || failed+=("ruff format (make fix)")
	$(BIN)/mypy || failed+=(mypy)
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

test: $(STAMP) ## all tests but the slow ones: ten to fifteen minutes on two cores
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

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

# $(call need_python): PYTHON is new enough and can make virtual environments.
define need_python
command -v $(PYTHON) >/dev/null || { \
    echo "setup: no '$(PYTHON)' on PATH. Install Python 3.11 or newer, or give one: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "setup: $(PYTHON) is $$($(PYTHON) --version 2>&1); ctrdist needs Python 3.11 or newer. Give one: make PYTHON=python3.11" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "setup: $(PYTHON) cannot make virtual environments. Install its venv module (on Debian and Ubuntu the package python3-venv)." >&2; exit 1; }
endef

# $(call need_cpu_torch,VENV): on x86-64 Linux the plain torch wheel is built for CUDA: half a gigabyte that does not even
# import without some gigabytes more. pip is asked first, with its own configuration, whether it has the CPU build.
define need_cpu_torch
if [ "$$(uname -sm)" = "Linux x86_64" ] && [ -z "$(ANY_TORCH)" ]; then \
    wanted="$$(sed -n 's/^torch==//p' requirements.lock)+cpu"; \
    $(1)/bin/python -m pip index versions torch 2>/dev/null | grep -qF "$$wanted" || { \
        echo "setup: pip finds no CPU build of torch ($$wanted), so nothing was installed: the build that it would take is for CUDA." >&2; \
        echo "  Tell pip where a CPU build is, then run make again. One of:" >&2; \
        echo "    pip config set global.extra-index-url URL   the package index of PyTorch's CPU builds; PyTorch's 'Get started' page names it" >&2; \
        echo "    pip config set global.find-links DIR        a folder that holds torch-$$wanted-….whl" >&2; \
        echo "  Should your index offer a CPU build under the plain version number: make setup ANY_TORCH=1" >&2; exit 1; }; \
fi
endef

$(STAMP): requirements.lock pyproject.toml
	@trap 'echo "setup: failed; see above. Running make again starts afresh." >&2' ERR
	if [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ] || ! cmp -s requirements.lock $(VENV)/requirements.lock; then
	    $(call need_python)
	    rm -rf $(VENV)
	    $(say) "making $(VENV) with $$($(PYTHON) --version)"
	    $(PYTHON) -m venv $(VENV)
	    $(call need_cpu_torch,$(VENV))
	    # First the build tool, so that source packages and ctrdist itself are built with the pinned one.
	    $(BIN)/python -m pip install -qq --no-deps "$$(grep '^setuptools==' requirements.lock)"
	    $(say) "installing $$(grep -c == requirements.lock) pinned packages: a few minutes, 2.2 GB"
	    $(BIN)/python -m pip install -qq --no-deps --no-build-isolation -r requirements.lock
	    $(say) "trying torch and torchrec"
	    $(BIN)/python -W ignore -c 'import torch; assert torch.version.cuda is None, torch.__version__; import torchrec' || {
	        echo "setup: torch or torchrec does not work here. Is pip's torch a CPU build? pip config list shows where it looks." >&2
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
	$(call need_cpu_torch,build/lock)
	$(say) "resolving and installing: some minutes"
	# torchrec without its dependencies; pyproject.toml says why.
	build/lock/bin/python -m pip install -qq -e '.[cpu,dev]'
	build/lock/bin/python -m pip install -qq --no-deps "$$(sed -n 's/.*"\(torchrec==[^"]*\)".*/\1/p' pyproject.toml)"
	{
	    echo '# The whole CPU environment, exactly. Written by `make lock`, installed by `make setup` with --no-deps: the list is'
	    echo '# complete, and torchrec would ask for the CUDA build of FBGEMM (see pyproject.toml).'
	    build/lock/bin/python -m pip freeze --all --exclude pip --exclude ctrdist | sed 's/^torch==\([0-9.]*\)+cpu/torch==\1/'
	} > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build/lock
	$(say) "requirements.lock: $$(grep -c == requirements.lock) packages"
