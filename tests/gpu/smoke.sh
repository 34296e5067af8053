#!/bin/bash
# All GPU tests, side by side (tests/gpu/suite.py); reports in build/test-gpu, and in $OUT where that is set.
set -uo pipefail
# shellcheck source=tests/gpu/env.sh
. "$(dirname "$0")/env.sh"
"$PYTHON" tests/gpu/suite.py "$@"
