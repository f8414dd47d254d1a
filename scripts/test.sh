#!/usr/bin/env bash
# Install what the tests need into .venv (or the environment in $VENV), then lint, types, import contracts, tests.
# Usage: scripts/test.sh [pytest arguments]; without arguments, everything, with coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"
source scripts/environment.sh
install_into "$venv" dev
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports"
# Beforehand, because a first build takes longer than one test may. The library for Jetson is compiled and loaded too.
VENV="$venv" scripts/build_plugins.sh
scripts/browser.sh
VENV="$venv" scripts/cross_toolchain.sh --emulator
"$venv/bin/python" scripts/build_target_plugins.py jetson-orin
if [ $# -gt 0 ]; then
  exec "$venv/bin/python" -m pytest "$@"
fi
# Two workers; the maths, the operators and the contracts must stay covered.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --show-capture=no --cov-branch --cov-fail-under=95 \
  --cov=retentive_export.cache --cov=retentive_export.ops --cov=retentive_export.spec
