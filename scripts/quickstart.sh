#!/usr/bin/env bash
# From a fresh machine to an answer: make a virtual environment, install, export the reference VLM for this CPU, ask it
# about a picture. Everything lies in .venv and out/; run it again and finished steps are reused.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"
source scripts/environment.sh
echo "Installing into $venv (a few minutes the first time) ..."
install_into "$venv" export
export HF_HUB_OFFLINE=1
echo "Exporting the reference VLM ..."
"$venv/bin/retentive-export" build reference-vlm --target cpu -o out/reference-vlm
"$venv/bin/python" scripts/ask_reference_vlm.py out/reference-vlm
