#!/usr/bin/env bash
# Runs scripts/quickstart.py, in a .venv that it makes or brings up to date first. Arguments go to quickstart.py:
#
#     scripts/quickstart.sh
#     scripts/quickstart.sh --help
#
# Once the packages are installed it needs no network, and it sends nothing.
set -euo pipefail

EXTRA= VENV=.venv CONSTRAINTS=constraints.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

exec .venv/bin/python scripts/quickstart.py "$@"
