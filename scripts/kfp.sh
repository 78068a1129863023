#!/usr/bin/env bash
# Makes .venv-kfp, the environment in which `aajr pipeline run --engine kfp` and `aajr pipeline compile` run Kubeflow
# Pipelines. It is apart from .venv because kfp wants protobuf below 7 and constraints.txt has a newer one.
#
#     scripts/kfp.sh
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

"${PYTHON:-python3}" -m venv .venv-kfp
.venv-kfp/bin/python -m pip install --quiet --disable-pip-version-check kfp==2.17.3 kfp-kubernetes==2.17.3
.venv-kfp/bin/python -c 'import kfp; print("Kubeflow Pipelines", kfp.__version__, "is in .venv-kfp")'
