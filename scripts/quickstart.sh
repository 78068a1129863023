#!/usr/bin/env bash
# Makes or updates .venv, then runs scripts/quickstart.py in it. Arguments go to quickstart.py:
#
#     scripts/quickstart.sh
#     scripts/quickstart.sh --model smollm2-135m     # a real language model
#     scripts/quickstart.sh --help
#
# After the packages are installed, it needs no network and sends nothing. With --model, it downloads the model once.
set -euo pipefail

EXTRA=
if [[ " $*" == *" --model"* ]]; then
    EXTRA=gguf # reads the model's file
else
    export HF_HUB_OFFLINE=1
fi
VENV=.venv CONSTRAINTS=constraints.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"

export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

exec .venv/bin/python scripts/quickstart.py "$@"
