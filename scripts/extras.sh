#!/usr/bin/env bash
# Install each extra alone beside a bare xvlm, and run what it is for.
#
#   scripts/extras.sh [WHEEL]           by default a wheel is built
#   EXTRAS="search export"              some of them
#
# The environments share the packages of a bare installation, so that PyTorch is installed once.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
CONSTRAINTS=$(pwd)/constraints.txt
SCRIPTS=$(pwd)/scripts
say() { echo "==> $*"; }

python3 -m venv "$WORK/bare"
if [ -n "${1:-}" ]; then
  wheel=$(realpath "$1")
else
  "$WORK/bare/bin/pip" install -q build
  "$WORK/bare/bin/python" -m build -q --wheel -o "$WORK/wheel" . >/dev/null
  wheel=$(ls "$WORK"/wheel/*.whl)
fi
say "a bare installation"
"$WORK/bare/bin/pip" install -q -c "$CONSTRAINTS" "$wheel"
site=$("$WORK/bare/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
(cd "$WORK" && "$WORK/bare/bin/python" "$SCRIPTS/smoke.py")

for extra in ${EXTRAS:-app export heic hf metrics photos prepare remote scale search tracking}; do
  start=$(date +%s)
  python3 -m venv "$WORK/$extra"
  own=$("$WORK/$extra/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$site" >"$own/bare.pth"
  "$WORK/$extra/bin/pip" install -q -c "$CONSTRAINTS" "xvlm[$extra] @ file://$wheel"
  size=$(du -sm "$own" | cut -f1)
  (cd "$WORK" && "$WORK/$extra/bin/python" "$SCRIPTS/extra_smoke.py" "$extra")
  say "$extra: $size MB, $(($(date +%s) - start)) s"
  rm -rf "${WORK:?}/$extra"
done
