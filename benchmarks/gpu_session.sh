#!/usr/bin/env bash
# Everything that wants a GPU, on one NVIDIA GPU (H100 or newer), in at most nine minutes:
#   benchmarks/gpu_session.sh DIRECTORY [STAGE …]
# Stages: tests kernels dlf dea small dlrm disk checkpoint; only by name: eager wide loader.
# Results are written to DIRECTORY as they come, so that a session that is cut off keeps what it has.
set -uo pipefail
out=${1:?give a directory for the results}; shift
stages=${*:-tests kernels dlf dea small dlrm disk checkpoint}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=ignore
begun=$SECONDS

# stage NAME LIMIT_S COMMAND…: runs a command with a time limit; its output also goes to DIRECTORY/NAME.txt
stage() {
    local name=$1 limit=$2; shift 2
    [[ " $stages " == *" ${name%%-*} "* ]] || return 0
    echo "== $name, after $((SECONDS - begun)) s"
    timeout "$limit" "$@" 2>&1 | grep --line-buffered -vE '^ *$|WARNING|^INFO|compat_table|determine compat|\[33m|\[0m' |
        tee "$out/$name.txt"
    echo "== $name ended with ${PIPESTATUS[0]} after $((SECONDS - begun)) s"
}

# gpu NAME LIMIT_S ARGUMENT…: a stage of benchmarks/gpu.py; its figures go to DIRECTORY/NAME.jsonl
gpu() { stage "$1" "$2" python3 benchmarks/gpu.py --out "$out/$1.jsonl" --seconds 0.3 --precision bfloat16 "${@:3}"; }

# disk: bytes a second of plain writes and reads, on disk and in memory, beside which a checkpoint stands
disk() {
    df -h "$TMPDIR" /dev/shm; free -g | head -2
    dd if=/dev/zero of="$TMPDIR/dd" bs=16M count=256 oflag=direct
    dd if="$TMPDIR/dd" of=/dev/null bs=16M iflag=direct
    dd if=/dev/zero of="$TMPDIR/dd" bs=16M count=256 conv=fsync; rm "$TMPDIR/dd"
    dd if=/dev/zero of=/dev/shm/dd bs=16M count=256; rm /dev/shm/dd
}
export -f disk
export TMPDIR=${TMPDIR:-/tmp}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
# several processes share the GPU; without pytest-xdist: PYTEST_ARGS=
stage tests 110 python3 -m pytest -o addopts= --import-mode=importlib -p no:cacheprovider --show-capture=no -q tests/gpu ${PYTEST_ARGS--n 6}
stage kernels 40 python3 benchmarks/gpu_kernels.py
gpu dlf 90 --tower dlf --dim 16 --batch 65536 --compile yes --kernels triton pytorch --profile 12
gpu dea 90 --tower dual_attention --dim 16 --batch 65536 --compile no yes --kernels triton pytorch --profile 16
gpu small 70 --tower dlf dcnv2 --dim 16 --batch 8192 --compile no yes graphs --kernels triton --profile 16
gpu dlrm 60 --tower dlrm --dim 128 --batch 65536 8192 --compile no yes --tables rowwise_adagrad --profile 12
stage disk 20 bash -c disk
save=(python3 benchmarks/checkpoint.py --device cuda --dim 128 --only asynchronous)
stage checkpoint-disk 25 "${save[@]}" --rows 8000000 --repeats 2
stage checkpoint-memory 35 "${save[@]}" --rows 29000000 --repeats 1 --directory /dev/shm

gpu eager 60 --tower dlf tf4ctr transformer dcnv2 --dim 16 --batch 65536 8192 --compile no yes --profile 0
gpu wide 40 --tower dcnv2 --dim 128 --batch 65536 --compile no yes --profile 0
gpu loader 60 --tower dlrm --dim 128 --scale 0.1 --batch 65536 --compile yes --tables rowwise_adagrad \
    --profile 0 --loader 6000000 --threads 12
