#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most seven minutes: the step, its launches and memory, the share of a
# run's time spent waiting for data, then tests.
# Usage: benchmarks/gpu.sh [OUT].  Wheels of packages that the machine lacks may lie in .whl; no network is used.
# WORKERS (16) read for the run that is measured; each holds two steps of 23 MB in /dev/shm.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/gpu}
PYTHON=${PYTHON:-python3}
WORKERS=${WORKERS:-16}
mkdir -p "$OUT"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$OUT/site" .whl/*.whl
  export PYTHONPATH="$PWD/$OUT/site:$PWD:${PYTHONPATH:-}"
fi
measure() { # name of the output, seconds, benchmark with its options: one table and one JSON file
  local name=$1 limit=$2
  shift 2
  echo "==> $name"
  timeout "$limit" "$PYTHON" -m xvlm bench "$@" --json "$OUT/$name.json" 2>&1 | tee "$OUT/$name.txt"
}
measure swin 90 mixed_step
measure vit 90 mixed_step --vision vit_base_patch16_224
measure large 90 mixed_step --pairs 512 --region-images 96 --repeats 3
df -h /dev/shm | tee "$OUT/shm.txt"
measure data 60 data --workers "$WORKERS" --repeats 1
measure waiting 75 waiting --workers "$WORKERS" --steps 200 --images 64
echo "==> tests"
timeout 180 "$PYTHON" -m pytest -q -n "$(($(nproc) - 2 > 1 ? $(nproc) - 2 : 1))" --dist loadfile -p no:cacheprovider \
  tests/models/test_gpu.py tests/models tests/training tests/contracts tests/losses 2>&1 | tee "$OUT/tests.txt" | tail -40
