#!/bin/bash
# Fills .whl/ with what a GPU machine without a registry lacks beside torch (tests/gpu/env.sh installs from there): wheels of
# CPython 3.12 for x86-64, 26 MB together.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
platforms=()
for level in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${level}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
# pydantic and pydantic-core are bound to each other: resolved together, the others one by one.
packages=(msgspec zstandard blake3 typer shellingham rich markdown-it-py mdurl pygments annotated-doc typing-extensions
    scikit-build-core pathspec packaging pytest-timeout hypothesis sortedcontainers gguf filelock fsspec sigmf jsonschema
    jsonschema-specifications referencing rpds-py attrs defusedxml pyzmq jinja2 cryptography cffi pycparser cuda-bindings
    cuda-pathfinder starlette uvicorn h11 click anyio idna prometheus-client nvidia-ml-py)
fetch() {
    python3 -m pip download -q --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" -d .whl "$@"
}
fetch pydantic || exit
for package in "${packages[@]}"; do fetch --no-deps "$package" || exit; done
