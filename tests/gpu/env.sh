#!/bin/bash
# Sourced by the scripts that need a GPU: sets PYTHON, with foundry installed from this checkout.
# Where packages lie as wheels in .whl/ (a machine without a registry), python3 with those; else the virtual environment.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
if ls .whl/*.whl >/dev/null 2>&1; then
    PYTHON=python3
    export FOUNDRY_SITE=${FOUNDRY_SITE:-/tmp/site} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    export PYTHONPATH=$FOUNDRY_SITE PATH=$FOUNDRY_SITE/bin:$PATH
    into_site() {
        python3 -m pip install -q --no-index --no-deps --no-cache-dir --upgrade --target "$FOUNDRY_SITE" "$@"
    }
    # A second script on the same machine finds the wheels there.
    wheels=$FOUNDRY_SITE/.wheels
    if [ "$(cat "$wheels" 2>/dev/null)" != "$(ls .whl)" ]; then
        into_site --no-compile .whl/*.whl && ls .whl >"$wheels" || exit
    fi
    into_site --no-build-isolation . || exit
    # As on an ordinary machine, where each module is compiled once: else each process compiles what it
    # imports, some tenths of a second. The variable is set on some; numpy's wheel brings no compiled modules.
    unset PYTHONDONTWRITEBYTECODE
    numpy=$(python3 -c 'import numpy; print(*numpy.__path__)')
    python3 -m compileall -q -j 0 "$FOUNDRY_SITE" "$numpy" foundryc foundryrt hf_runtime parse_runtime otfs_pipeline benchmarks >/dev/null
    # pytest and python -m import the checkout, not the site.
    for side in foundryc foundryrt; do
        cp --remove-destination "$FOUNDRY_SITE/$side/native/"lib*.so "$side/native/" || exit
    done
else
    make setup || exit
    PYTHON=.venv/bin/python
    export PATH=$PWD/.venv/bin:$PATH
fi
export PYTHON PYTHONUNBUFFERED=1
