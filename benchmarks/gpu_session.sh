#!/usr/bin/env bash
# Everything that wants a GPU, on one NVIDIA GPU (H100 or newer), in at most nine minutes:
#   benchmarks/gpu_session.sh DIRECTORY [STAGE …]      stages: tests compiled eager wide dlrm loader checkpoint
# Results are written to DIRECTORY as they come, so that a session that is cut off keeps what it has.
set -uo pipefail
out=${1:?give a directory for the results}; shift
stages=${*:-tests compiled eager wide dlrm loader checkpoint}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=ignore
begun=$SECONDS

# stage NAME LIMIT_S COMMAND…: runs a command with a time limit; its output also goes to DIRECTORY/NAME.txt
stage() {
    local name=$1 limit=$2; shift 2
    [[ " $stages " == *" $name "* ]] || return 0
    echo "== $name, after $((SECONDS - begun)) s"
    timeout "$limit" "$@" 2>&1 | grep --line-buffered -vE '^ *$|WARNING root|compat_table|determine compat|\[33m|\[0m' |
        tee "$out/$name.txt"
    echo "== $name ended with ${PIPESTATUS[0]} after $((SECONDS - begun)) s"
}

# gpu NAME LIMIT_S ARGUMENT…: a stage of benchmarks/gpu.py; its figures go to DIRECTORY/NAME.jsonl
gpu() { stage "$1" "$2" python3 benchmarks/gpu.py --out "$out/$1.jsonl" --seconds 0.3 "${@:3}"; }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
stage tests 100 python3 -m pytest -o addopts= --import-mode=importlib -p no:cacheprovider -q tests/gpu ${PYTEST_ARGS:-}
gpu compiled 110 --tower dlf dcnv2 tf4ctr dual_attention --dim 16 --batch 65536 --precision bfloat16 --compile yes --profile 0
gpu eager 50 --tower dlf tf4ctr dual_attention dcnv2 --dim 16 --batch 65536 8192 --precision bfloat16 --profile 0
gpu wide 40 --tower dcnv2 --dim 128 --batch 65536 --precision bfloat16 --compile no yes --profile 0
gpu dlrm 70 --tower dlrm --dim 128 --batch 65536 8192 --precision bfloat16 tf32 --tables rowwise_adagrad --profile 12
gpu loader 60 --tower dlrm --dim 128 --scale 0.1 --batch 65536 --precision bfloat16 --compile yes \
    --tables rowwise_adagrad --profile 0 --loader 6000000 --threads 12
stage checkpoint 110 python3 benchmarks/checkpoint.py --device cuda --rows 58000000 --dim 128 --repeats 1 --only asynchronous
