#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS=1 # two threads that spin-wait make tiny models 5 to 50 times slower on a shared machine
command -v "${PYTHON:-python3}" >/dev/null || {
    echo "error: ${PYTHON:-python3} was not found; install Python 3.11 or newer" >&2
    exit 2
}
"${PYTHON:-python3}" scripts/environment.py
exec .venv/bin/python -m pytest "$@"
