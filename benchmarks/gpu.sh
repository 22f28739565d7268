#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most six minutes: the step, its launches and memory, the share of a
# run's time spent waiting for data, then as many tests as the rest of the time allows.
# Usage: benchmarks/gpu.sh [OUT] [measure|test].  The second word leaves the other half out.
# Wheels of packages that the machine lacks may lie in .whl; no network is used.
# WORKERS (16) read for the run that is measured; each holds two steps of 23 MB in /dev/shm.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/gpu}
ONLY=${2:-}
PYTHON=${PYTHON:-python3}
WORKERS=${WORKERS:-16}
END=$((SECONDS + 350))
mkdir -p "$OUT"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$OUT/site" .whl/*.whl
  export PYTHONPATH="$PWD/$OUT/site:$PWD:${PYTHONPATH:-}"
fi
limit() { # seconds: no more of them than are left
  local left=$((END - SECONDS))
  echo $(($1 < left ? $1 : (left > 1 ? left : 1)))
}
measure() { # name of the output, seconds, benchmark with its options: one table and one JSON file
  local name=$1 seconds
  seconds=$(limit "$2")
  shift 2
  echo "==> $name"
  timeout "$seconds" "$PYTHON" -m xvlm bench "$@" --json "$OUT/$name.json" 2>&1 | tee "$OUT/$name.txt"
}
if [ "$ONLY" != test ]; then
  # The first compiles the kernels, which the others find on the disk.
  measure swin 90 mixed_step
  measure vit 60 mixed_step --vision vit_base_patch16_224
  measure deterministic 45 mixed_step --deterministic
  measure large 60 mixed_step --pairs 512 --region-images 96 --repeats 3
  measure recomputed 60 mixed_step --pairs 512 --region-images 96 --repeats 3 --activation-checkpointing selective
  df -h /dev/shm | tee "$OUT/shm.txt"
  measure data 45 data --workers "$WORKERS" --repeats 1
  measure waiting 75 waiting --workers "$WORKERS" --steps 200 --images 64
fi
if [ "$ONLY" != measure ]; then
  echo "==> tests"
  # Half of the cores: each process also compiles, and all of them share the GPU.
  timeout "$(limit 350)" "$PYTHON" -m pytest -q -n "$(($(nproc) / 2 > 1 ? $(nproc) / 2 : 1))" --dist loadfile \
    -p no:cacheprovider --ignore tests/bench --ignore tests/fuzz 2>&1 | tee "$OUT/tests.txt" | tail -60
fi
