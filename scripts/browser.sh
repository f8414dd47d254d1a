#!/usr/bin/env bash
# Debian's Chromium, in which the tests open the pages of results. Run again, it does nothing.
set -euo pipefail
if ! command -v chromium >/dev/null; then
  sudo="$([ "$(id -u)" = 0 ] || echo sudo)"
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
echo "Browser: $(chromium --version 2>/dev/null)"
