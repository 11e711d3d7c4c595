#!/usr/bin/env bash
# What only a GPU can tell, in less than 8 minutes: bash scripts/gpu_check.sh [FOLDER]
# A page of figures and the logs go into FOLDER (OUT, or gpu_check). PYTHON names the interpreter, 3.11 or newer with
# torch 2.11 or newer; what it lacks is installed from ./wheels, if there is such a folder. diffusers need not be there.
# What fails does not stop what follows; the exit code tells. Without a GPU shapes are small and no test runs.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-${OUT:-gpu_check}}
python=${PYTHON:-python3}
status=0
mkdir -p "$out"
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1

has() { # modules
    "$python" -c "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))" "$@"
}

step() { # seconds at most, name of the log, command
    local limit=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.txt"
    local code=${PIPESTATUS[0]}
    if [ "$code" -ne 0 ]; then
        echo "== $name ended with $code"
        status=1
    fi
}

if [ -d wheels ]; then
    "$python" -m pip install --quiet --no-index --find-links wheels --no-deps wheels/*.whl || status=1
fi
if ! has torch pydantic yaml safetensors numpy; then
    echo "error: $python lacks torch, pydantic, yaml, safetensors or numpy; put their wheels into ./wheels" >&2
    exit 2
fi
if "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    tests=(tests/layers tests/calib tests/numerics)
    has diffusers transformers tokenizers && tests+=(tests/device)
    if has pytest; then # another torch than the suite's may warn of other things
        step 150 tests "$python" -m pytest -m gpu -W default -p no:cacheprovider "${tests[@]}"
    else
        echo "== no pytest: the tests are left out"
        status=1
    fi
else
    echo "== no GPU: its tests are left out"
fi
step 300 figures "$python" -m benchmarks.gpu --into "$out"
exit $status
