#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most six minutes: the step, its launches and memory, then tests.
# Usage: benchmarks/gpu.sh [OUT].  Wheels of packages that the machine lacks may lie in .whl; no network is used.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$OUT/site" .whl/*.whl
  export PYTHONPATH="$PWD/$OUT/site:$PWD:${PYTHONPATH:-}"
fi
step() { # name, options: one table and one JSON file
  local name=$1
  shift
  echo "==> $name"
  timeout 90 "$PYTHON" -m xvlm bench mixed_step --json "$OUT/$name.json" "$@" 2>&1 | tee "$OUT/$name.txt"
}
step swin
step vit --vision vit_base_patch16_224
step large --pairs 512 --region-images 96 --repeats 3
echo "==> tests"
timeout 180 "$PYTHON" -m pytest -q -n "$(($(nproc) - 2 > 1 ? $(nproc) - 2 : 1))" --dist loadfile -p no:cacheprovider \
  tests/models/test_gpu.py tests/models tests/training tests/contracts tests/losses 2>&1 | tee "$OUT/tests.txt" | tail -40
