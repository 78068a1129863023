#!/usr/bin/env bash
# Checks the versions of constraints.txt against PyPI's security advisories, with pip-audit in a temporary environment.
#
#     scripts/audit.sh
#
# Exit status: 0 if no advisory applies, 1 if one does, 2 if the advisories cannot be fetched.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pip-audit 2>/dev/null || { echo "error: pip-audit cannot be installed" >&2; exit 2; }

status=0
"$folder/venv/bin/pip-audit" --requirement constraints.txt --no-deps --disable-pip --strict >"$folder/out" 2>&1 || status=$?
cat "$folder/out"
if grep -q "not found on PyPI\|ConnectionError\|ServiceError" "$folder/out"; then
    echo "error: the advisories cannot be fetched here" >&2
    exit 2
fi
exit "$status"
