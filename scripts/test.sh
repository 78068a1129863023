#!/usr/bin/env bash
# Checks the code's style and formatting, then runs the tests, in a .venv that it makes or brings up to date first.
#
#     scripts/test.sh                                  everything
#     scripts/test.sh tests/test_FILE.py::test_NAME    one test; arguments go to pytest
#
# The tests need no network and no GPU; those marked `gpu` need a CUDA device.
set -euo pipefail

EXTRA=dev
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m pytest -n 2 "$@"
