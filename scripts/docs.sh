#!/usr/bin/env bash
# Makes or updates .venv, then builds the site from README.md and docs/. Any warning, such as a broken link, ends it.
#
#     scripts/docs.sh              writes outputs/site/index.html
#     scripts/docs.sh FOLDER       writes FOLDER/index.html
set -euo pipefail

EXTRA=docs VENV=.venv CONSTRAINTS=constraints.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"

FOLDER="${1:-outputs/site}"
"$VENV/bin/python" -m sphinx --quiet --fail-on-warning --keep-going -c docs . "$FOLDER"
echo "$FOLDER/index.html"
