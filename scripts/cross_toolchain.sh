#!/usr/bin/env bash
# What compiling the plugin library for a Jetson takes on an x86_64 machine with nvcc: Debian's cross compiler, and
# NVIDIA's static CUDA runtime for aarch64 of nvcc's version, into plugins/build/cross/. Run again, it does nothing.
# Usage: scripts/cross_toolchain.sh [--emulator]      --emulator: also user-mode QEMU, with which the tests load the result
# Environment: VENV, a Python environment with pip, default .venv when there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=(aarch64-linux-gnu-g++)
packages="g++-aarch64-linux-gnu"
if [ "${1:-}" = --emulator ]; then
  programs+=(qemu-aarch64-static)
  packages+=" qemu-user-static"
fi
source scripts/environment.sh
install_programs "$packages" "${programs[@]}"
nvcc="$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)"
version="$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')"
if [ "${version%%.*}" -lt 13 ]; then
  echo "nvcc is $version: NVIDIA's Python packages hold a static CUDA runtime for aarch64 from 13.0 on; for $version take" >&2
  echo "libcudart_static.a from its cross toolkit (targets/aarch64-linux/lib)" >&2
  exit 1
fi
runtime="plugins/build/cross/cudart-$version-aarch64"
if [ ! -e "$runtime/libcudart_static.a" ]; then
  python="${VENV:-.venv}/bin/python"
  [ -x "$python" ] || python=python3
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
  "$python" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux2014_aarch64 \
    --platform manylinux_2_17_aarch64 --dest "$scratch" "nvidia-cuda-runtime==$version.*"
  mkdir -p "$runtime"
  "$python" - "$scratch"/*.whl "$runtime" <<'PYTHON'
import sys, zipfile
from pathlib import Path

wheel, runtime = zipfile.ZipFile(sys.argv[1]), Path(sys.argv[2])
for name in ("libcudart_static.a", "libcudadevrt.a"):
    (member,) = [one for one in wheel.namelist() if one.endswith(f"/lib/{name}")]
    partial = runtime / f"{name}.partial"
    partial.write_bytes(wheel.read(member))
    partial.rename(runtime / name)
PYTHON
fi
echo "Cross toolchain: $(aarch64-linux-gnu-g++ -dumpfullversion) for aarch64, nvcc $version, $PWD/$runtime"
