# Sourced by the scripts that need a GPU: sets PYTHON, with foundry installed from this checkout.
# Where packages lie as wheels in .whl/ (a machine without a registry), python3 with those; else the virtual environment.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
if ls .whl/*.whl >/dev/null 2>&1; then
    PYTHON=python3
    export FOUNDRY_SITE=${FOUNDRY_SITE:-/tmp/site} PIP_DISABLE_PIP_VERSION_CHECK=1
    export PYTHONPATH=$FOUNDRY_SITE PATH=$FOUNDRY_SITE/bin:$PATH
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$FOUNDRY_SITE" .whl/*.whl || exit
    python3 -m pip install -q --no-index --no-deps --no-build-isolation --no-cache-dir --upgrade --target "$FOUNDRY_SITE" . || exit
else
    make setup || exit
    PYTHON=.venv/bin/python
    export PATH=$PWD/.venv/bin:$PATH
fi
export PYTHON PYTHONUNBUFFERED=1
