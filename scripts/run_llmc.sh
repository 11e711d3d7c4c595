#!/usr/bin/env bash
# Runs one configuration in the foreground, and returns its exit code; without CONFIG, the embedded model's.
#   bash scripts/run_llmc.sh [CONFIG] [--set key.key=value ...] [--plugin name ...] [--json] [--detach]
#       [--model_path FOLDER] [--model_type NAME] [--save_path FOLDER] [--device NAME]
# CONFIG is LLMC's or msModelSlim's; the latter names no model, so that --model_path and --save_path must.
# --detach runs in the background as LLMC does. NPROC=n starts n processes with torchrun. With NNODES=n several machines
# work together, on folders that all of them see: start it on each with its own NODE_RANK, from 0, and with the first
# one's MASTER_ADDR (and MASTER_PORT, 29500). PYTHON=python3.12 names the Python that .venv is made with.
set -euo pipefail

# What LLMC's users edit. CONFIG on the command line wins over `config`, and then also names the task.
llmc=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
task_name=wan_i2v_tiny_smoothquant_w_a
config=${llmc}/configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml
export PYTHONPATH=$llmc${PYTHONPATH:+:$PYTHONPATH}

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that spin make a shared machine several times slower

fail() {
    echo "error: $1" >&2
    exit 2
}

detach=
overrides=()
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --detach) detach=1 ;;
    --set | --plugin | --model_path | --model_type | --save_path | --device)
        [ $# -ge 2 ] || fail "$1 needs a value after it"
        overrides+=("$1" "$2")
        shift
        ;;
    -*) options+=("$1") ;;
    *)
        config=$1
        task_name=$(basename "${1%.*}")
        ;;
    esac
    shift
done

[ -f "$llmc/llmc/__main__.py" ] || fail "llmc=$llmc holds no llmc; let it name the folder of the repository"
command -v "${PYTHON:-python3}" >/dev/null || fail "${PYTHON:-python3} was not found; install Python 3.11 or newer"
"${PYTHON:-python3}" "$llmc/scripts/environment.py"

start=("$llmc/.venv/bin/python")
what=("$config" ${overrides[@]+"${overrides[@]}"})
nodes=(--standalone)
if [ "${NNODES:-1}" -gt 1 ]; then
    [ -n "${NODE_RANK:-}" ] || fail "NNODES=$NNODES needs a NODE_RANK on each machine: 0 on the first, up to $((NNODES - 1))"
    [ -n "${MASTER_ADDR:-}" ] || fail "NNODES=$NNODES needs MASTER_ADDR, the address of the machine with NODE_RANK=0"
    nodes=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
    task_name=${task_name}_node$NODE_RANK
fi
if [ "${NPROC:-1}" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ]; then
    "${start[@]}" -m llmc check "${what[@]}" >/dev/null # torchrun would bury the error under its own
    start+=(-m torch.distributed.run "${nodes[@]}" --nproc_per_node "${NPROC:-1}")
fi
start+=(-m llmc run --config "${what[@]}" ${options[@]+"${options[@]}"})

if [ -z "$detach" ]; then
    exec "${start[@]}"
fi
nohup "${start[@]}" >"$task_name.log" 2>&1 </dev/null &
echo $! >"$task_name.pid"
echo "running in the background: log $task_name.log, process id in $task_name.pid; stop it with: kill \$(cat $task_name.pid)"
