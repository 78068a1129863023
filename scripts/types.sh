#!/usr/bin/env bash
# Checks the types: everything of `aajr_hf/objective`, and in the rest of the package what pyrefly is sure of.
# scripts/test.sh runs this with its own environment.
#
#     scripts/types.sh             with .venv
#     VENV=.venv-oldest scripts/types.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

check() {
    "${VENV:-.venv}/bin/python" -m pyrefly check --python-interpreter-path "${VENV:-.venv}/bin/python" \
        --output-format min-text "$@"
}

check
# Python 3.11 has no `typing.override`.
check --preset strict --ignore missing-override-decorator aajr_hf/objective/*.py
