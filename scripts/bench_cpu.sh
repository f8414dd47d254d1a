#!/usr/bin/env bash
# CPU decode speed of SmolLM2-135M, 20 % of an 8k cache against full caches, beside the peers: docs/benchmarks.md.
# bench_cpu.sh WORK [float32|int4 ...]: builds what is missing in WORK, measures each weight format, writes WORK/report-*.
set -euo pipefail

work=${1:?"usage: bench_cpu.sh WORK [float32|int4 ...]"}
shift
[ $# -gt 0 ] || set -- float32 int4
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

build() { # NAME FORMAT SETTING: one artifact, if it is not there
  [ ! -f "$work/$1/manifest.json" ] || return 0
  retentive-export build smollm2-135m --target cpu -o "$work/$1" --set golden_steps=4 --set cache.rows.dtype=model \
    --set cache.context=8192 --set "$3" --set "weights.format=${2/float32/none}"
}

for format in "$@"; do
  build "bounded-$format" "$format" cache.budget.fraction=0.2
  build "full-$format" "$format" cache.policy=full
  retentive-export bench "$work/bounded-$format" "$work/full-$format" --peer all --peer-models "$work/peers" \
    --contexts 512,1k,2k,4k,8k,32k --threads 2,1 --rounds 6 --report "$work/report-$format"
done
