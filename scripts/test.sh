#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [--extras] [--as avx2|default] [arguments of pytest]
# --extras also installs the runtimes that read exports on a CPU, so that their tests run
# --as computes as a weaker processor would: with AVX2 alone, or with none of the newer instructions
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

export OMP_NUM_THREADS=1 # two threads that spin-wait make tiny models 5 to 50 times slower on a shared machine
command -v "${PYTHON:-python3}" >/dev/null || fail "${PYTHON:-python3} was not found; install Python 3.11 or newer"
extras=""
while [ $# -gt 0 ]; do
    case $1 in
    --extras) extras=verify ;;
    --as)
        case ${2:-} in # what torch, oneDNN and MKL each read
        avx2) export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ;;
        default) export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 ;;
        *) fail "--as ${2:-}: it is avx2 or default" ;;
        esac
        shift
        ;;
    *) break ;;
    esac
    shift
done
"${PYTHON:-python3}" scripts/environment.py ${extras:+"$extras"}
exec .venv/bin/python -m pytest --numprocesses auto --dist worksteal --durations 10 "$@"
