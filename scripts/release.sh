#!/usr/bin/env bash
# Build and test a release; the upload is left to its owner.
#
#   scripts/release.sh [OUT]            all of it, into dist/ by default
#   PYTHONS="python3.11 python3.13"     interpreters that the wheel is tested with; by default all that are there
#   SIGN_KEY=...                        GnuPG key that signs the files; without it they are not signed
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

version=$(python3 -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
say() { echo "==> $*"; }

say "xvlm $version"
if [ -n "$(git status --porcelain)" ]; then echo "the tree has changes that are not committed"; exit 1; fi
grep -q "^## $version" CHANGELOG.md || { echo "CHANGELOG.md has no entry for $version"; exit 1; }
if git rev-parse -q --verify "refs/tags/v$version" >/dev/null; then echo "v$version is released already"; exit 1; fi
if [ -n "$(ls -A "$OUT")" ]; then echo "$OUT is not empty"; exit 1; fi

say "building from a clean clone"
git clone -q . "$WORK/clone"
python3 -m venv "$WORK/build"
"$WORK/build/bin/pip" install -q build cyclonedx-bom pip-licenses twine
"$WORK/build/bin/python" -m build -o "$OUT" "$WORK/clone" >"$WORK/build.log" 2>&1 || { cat "$WORK/build.log"; exit 1; }
"$WORK/build/bin/twine" check --strict "$OUT"/*

tested=0
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "$python is not here"; continue
  fi
  say "testing the wheel with $("$python" --version)"
  environment="$WORK/$python"
  "$python" -m venv "$environment"
  "$environment/bin/pip" install -q -c constraints.txt "$OUT/xvlm-$version-py3-none-any.whl"
  (cd "$WORK" && "$environment/bin/python" "$WORK/clone/scripts/smoke.py")
  tested=$((tested + 1))
  if [ ! -e "$OUT/sbom.cdx.json" ]; then
    say "bill of materials and licences"
    "$WORK/build/bin/cyclonedx-py" environment "$environment/bin/python" --output-format JSON -o "$OUT/sbom.cdx.json"
    "$WORK/build/bin/pip-licenses" --python "$environment/bin/python" --format markdown --with-urls >"$OUT/licences.md"
  fi
  rm -rf "$environment"
done
if [ "$tested" = 0 ]; then echo "no interpreter tested the wheel"; exit 1; fi

(cd "$OUT" && sha256sum -- * >"$WORK/sums" && mv "$WORK/sums" SHA256SUMS)
if [ -n "${SIGN_KEY:-}" ]; then
  for file in "$OUT"/*; do gpg --batch --local-user "$SIGN_KEY" --armor --detach-sign "$file"; done
else
  say "not signed: SIGN_KEY names no key"
fi
say "ready in $OUT; what is left:"
echo "    git tag -s v$version && git push origin v$version"
echo "    twine upload $OUT/*.whl $OUT/*.tar.gz"
