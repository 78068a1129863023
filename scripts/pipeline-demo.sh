#!/usr/bin/env bash
# Plays what docs/pipeline.md describes, on a small agent: calm answers, an attack that begins, the alarm, training
# against it, and the better agent in the old one's place. Makes or updates .venv first.
#
#     scripts/pipeline-demo.sh [FOLDER]      # default: outputs/pipeline-demo, which must not exist yet
set -euo pipefail

OUT="${1:-outputs/pipeline-demo}"
if [[ -e "$OUT" ]]; then
    echo "error: $OUT exists: remove it, or give another folder" >&2
    exit 2
fi
EXTRA='' VENV=.venv CONSTRAINTS=constraints.txt
source "$(dirname -- "${BASH_SOURCE[0]}")/_setup.sh"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
aajr() { .venv/bin/python -m aajr_hf "$@"; }

AGENT=docs/results/agents/congestion
mkdir -p "$OUT"
echo "== calm answers, then answers under an attack of radius 0.2"
aajr simulate --model "$AGENT" --transcript --episodes 20 --seed 1 --output "$OUT/before"
aajr simulate --model "$AGENT" --transcript --episodes 10 --seed 2 --output "$OUT/calm"
aajr simulate --model "$AGENT" --transcript --episodes 10 --seed 3 --attack nll --epsilon 0.2 --output "$OUT/attacked"
cat "$OUT/calm/episodes.jsonl" "$OUT/attacked/episodes.jsonl" >"$OUT/log.jsonl"

cat >"$OUT/pipeline.yaml" <<YAML
agent: $AGENT
serving: $OUT/serving
logs: [$OUT/log.jsonl]
baseline: $OUT/before/episodes.jsonl
recipe: recipes/congestion/adversarial.yaml
work: $OUT/work
examples: 64
# Adversarial training costs this agent some points without attack.
nominal_loss: 5
YAML
aajr pipeline run "$OUT/pipeline.yaml"
