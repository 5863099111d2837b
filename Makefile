# make demo   trains mGradNet-C on a 2-D convex field and shows the result
# make test   runs the suite but for tests marked slow: other instruction sets, several processes, wheels, compilers
# make test-all   runs all of it
# make mutants    seeds faults in a copy of this checkout, and writes down which of them the suite catches (an hour)
# make fuzz   tries 20,000 calls of the operators that nobody thought of; FUZZ="--count 1000 --seed 7" for others
# make reliability   kills runs, fills disks, takes memory, damages files and calls native code under sanitizers, by the
#             cases of docs/reliability.md, which it writes (hours); what is done counts when it is started again
# make ptx    runs the machine code that Triton makes of the kernels, without a GPU, and looks for races, accesses out of
#             bounds and wrong results: all of the tile table, hours; what is done counts when it is started again
# make gpu-rehearsal   runs all parts of python -m bench.gpu without a GPU, a little of each (minutes)
# make bench  times the kernels, and writes bench/results/cpu.json, .csv and .png
# make sanitize   runs every kernel under the address and undefined-behaviour sanitizers (ten minutes, most of them
#                 compilation)
# make aarch64    compiles the kernels for 64-bit Arm with aarch64-linux-gnu-g++, and runs them where QEMU is installed
# make wheel-check  builds the wheel, and tests it as installed beside the oldest PyTorch and the pinned one (half an hour,
#                 and gigabytes of PyTorch)
# make docs    builds the documentation as a site: docs/*.md, the examples, run, and the reference, from the docstrings;
#              warnings and links that lead nowhere are errors (a minute or two); build/docs/index.html
# make lock    resolves lock.txt and release/lock.txt anew where pyproject.toml asks for it; with UPGRADE=--upgrade,
#              everything to the newest
# All set up everything in .venv first; they need Python 3.10 to 3.13 and GCC.

PYTHON ?= python3
# Set to nothing, the extension is built for every instruction set of this kind of processor, as wheels have it.
GRADNETS_FAST_CMAKE_ARGS ?= -DGRADNETS_ISAS=native
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(wildcard csrc/*) CMakeLists.txt setup.py pyproject.toml constraints.txt lock.txt $(wildcard release/*.py)

.PHONY: demo test test-all mutants fuzz reliability ptx gpu-rehearsal lint bench sanitize aarch64 largest-batch training-gain wheel-check docs lock clean

demo: $(VENV)/.installed
	$(BIN)/gradnets-fast train --field convex2d --arch mgradnet-c --layers 4 --embed-dim 7 --epochs 200 --out runs/demo --overwrite

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

mutants: $(VENV)/.installed
	$(BIN)/python -m tests.mutants

fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz $(FUZZ)

reliability: $(VENV)/.installed
	$(BIN)/python -m tests.reliability $(RELIABILITY)

ptx: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.ptx $(PTX)

gpu-rehearsal: $(VENV)/.installed
	$(BIN)/python -m bench.gpu.rehearsal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(filter-out %_gen.h,$(wildcard csrc/*.h csrc/*.cpp tests/*.h tests/*.cpp))
	$(BIN)/python -m gradnets_fast.activations.codegen --check
	$(BIN)/python -m tests.mutants --check

bench: $(VENV)/.installed
	$(BIN)/gradnets-fast bench --preset full --out bench/results --overwrite

# All kernels from exact-size blocks of memory: tests/sanitize.cpp.
CONFIGURE = PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -G Ninja -DGRADNETS_WERROR=ON -DGRADNETS_POISON_WORKSPACE=ON

sanitize: $(VENV)/.installed
	@$(CONFIGURE) -B build/sanitize -DGRADNETS_SANITIZE=address,undefined -DGRADNETS_MODULE=OFF -DGRADNETS_CHECK=ON > /dev/null
	@$(BIN)/cmake --build build/sanitize > /dev/null
	@build/sanitize/sanitize

ARM_FLAGS := -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
QEMU := $(firstword $(shell command -v qemu-aarch64-static qemu-aarch64))

aarch64: $(VENV)/.installed
	@$(CONFIGURE) -B build/aarch64 -DGRADNETS_MODULE=OFF -DGRADNETS_CHECK=ON $(ARM_FLAGS) > /dev/null
	@$(BIN)/cmake --build build/aarch64 > /dev/null
	@$(if $(QEMU),$(QEMU) -L /usr/aarch64-linux-gnu build/aarch64/sanitize,echo "compiles; not run, for want of qemu-aarch64")

largest-batch: $(VENV)/.installed
	$(BIN)/python -m bench.largest_batch

training-gain: $(VENV)/.installed
	$(BIN)/python -m bench.training_gain

wheel-check: $(VENV)/.installed
	$(BIN)/python -m release.check_wheel $(if $(WHEEL),--wheel "$(WHEEL)")

docs: $(VENV)/.installed
	$(BIN)/python -m docs.site build/docs

# Without torch: which build of it, for the CPU or for a GPU, is the machine's choice.
LOCK := --quiet --config-file release/lock.toml --universal --python-version 3.10 --prerelease explicit --generate-hashes \
        --constraint constraints.txt --no-emit-package torch --no-emit-package torchvision \
        --no-header --no-annotate --no-emit-index-url

lock: $(VENV)/.installed
	$(BIN)/uv pip compile $(LOCK) $(UPGRADE) --extra dev --extra triton --output-file lock.txt pyproject.toml
	$(BIN)/uv pip compile $(LOCK) $(UPGRADE) --group release --output-file release/lock.txt

$(VENV)/.installed: $(SOURCES)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13) and f"make: PYTHON: expected Python 3.10 to 3.13, got {v[0]}.{v[1]}; run make PYTHON=/path/to/python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: $(PYTHON) lacks venv; on Debian: apt-get install python3-venv python3-dev" >&2; exit 1; }
	@echo "setting up $(VENV): PyTorch and the tools, then the extension (a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes --no-deps --requirement lock.txt
	@$(PIP) --constraint constraints.txt torch torchvision
	@PATH="$(CURDIR)/$(BIN):$$PATH" GRADNETS_FAST_EXTENSION=1 GRADNETS_FAST_CMAKE_ARGS="$(GRADNETS_FAST_CMAKE_ARGS)" \
		$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info gradnets_fast/_C*.so runs
