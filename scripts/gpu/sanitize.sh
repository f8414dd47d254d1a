#!/usr/bin/env bash
# The kernels under compute-sanitizer, on a machine with a GPU: every case of `retentive_harness check --quick` in a
# process of its own (many in one do not end), several at a time.
# Usage: scripts/gpu/sanitize.sh HARNESS [JOBS]
#   HARNESS: retentive_harness of plugins/build/PRESET. JOBS: processes at a time, default half of the cores.
# Environment: TOOLS, default "memcheck racecheck initcheck synccheck".
# Prints the cases that are not clean, then a line for each tool. Exit code: 0 all clean, 1 otherwise, 2 wrong arguments.
set -euo pipefail
if [ $# -lt 1 ] || [ ! -x "$1" ]; then
  echo "usage: scripts/gpu/sanitize.sh HARNESS [JOBS]; HARNESS is retentive_harness, from scripts/build_plugins.sh" >&2
  exit 2
fi
harness="$(realpath "$1")"
jobs="${2:-$(($(nproc) / 2 > 0 ? $(nproc) / 2 : 1))}"
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH; the CUDA toolkit has it" >&2; exit 2; }
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT

# A case by its whole name; a name that another one holds must not hide a case that did not run.
sanitize() {
  local tool="$1" number="$2" name="$3" log="$logs/$1.$2"
  if compute-sanitizer --tool "$tool" --error-exitcode 1 "$harness" check --quick --filter "$name" >"$log" 2>&1 &&
    grep -qE 'ERROR SUMMARY: 0 errors|SUMMARY: 0 hazards' "$log" && grep -qE '^[1-9][0-9]* cases, 0 failed' "$log"; then
    touch "$log.clean"
  else
    echo "$tool: $name"
    tail -n 20 "$log"
  fi
}
export -f sanitize
export harness logs

mapfile -t names < <("$harness" check --quick --list)
failed=0
for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
  for number in "${!names[@]}"; do
    printf '%s\0%s\0%s\0' "$tool" "$number" "${names[$number]}"
  done | xargs -0 -n 3 -P "$jobs" bash -c 'sanitize "$@"' sanitize
  clean="$(find "$logs" -name "$tool.*.clean" | wc -l)"
  echo "$tool: ${#names[@]} cases, $clean clean"
  [ "$clean" -eq "${#names[@]}" ] && [ "$clean" -gt 0 ] || failed=1
done
exit "$failed"
