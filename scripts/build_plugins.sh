#!/usr/bin/env bash
# Configure and build the plugin library, the C++ reference and the harness into plugins/build/PRESET, incrementally.
# Usage: scripts/build_plugins.sh [PRESET] [cmake arguments]
#   PRESET: x86_64 (default), aarch64-native (default on aarch64) or reference (no CUDA)
# Environment: VENV, a Python environment with the package kernel-lens (TensorRT's headers), default .venv when there is
# one; BUILD_JOBS, compilations at a time, default the number of cores.
set -euo pipefail
cd "$(dirname "$0")/.."
case "$(uname -m)" in
  aarch64) preset=aarch64-native ;;
  *) preset=x86_64 ;;
esac
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  preset="$1"
  shift
fi
python="${VENV:-.venv}/bin/python"
[ -x "$python" ] || python="$(command -v python3 || true)"
[ -z "$python" ] || python="$(realpath -s "$python")"
build="plugins/build/$preset"
mkdir -p "$build"
exec 9>"$build/.lock"
flock 9
(cd plugins && cmake --preset "$preset" ${python:+-DPython3_EXECUTABLE="$python"} "$@")
cmake --build "$build" --parallel "${BUILD_JOBS:-$(nproc)}"
for library in "$build"/libretentive_*.so; do
  echo "Built $PWD/$library"
done
