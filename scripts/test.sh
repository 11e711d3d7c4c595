#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [--extras] [arguments of pytest]
# --extras also installs the runtimes that read exports on a CPU, so that their tests run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS=1 # two threads that spin-wait make tiny models 5 to 50 times slower on a shared machine
command -v "${PYTHON:-python3}" >/dev/null || {
    echo "error: ${PYTHON:-python3} was not found; install Python 3.11 or newer" >&2
    exit 2
}
extras=""
if [[ "${1:-}" == --extras ]]; then
    extras=verify
    shift
fi
"${PYTHON:-python3}" scripts/environment.py ${extras:+"$extras"}
exec .venv/bin/python -m pytest --numprocesses auto --dist worksteal "$@"
