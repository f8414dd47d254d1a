#!/usr/bin/env bash
# Debian's Chromium, in which the tests open the pages of results. Run again, it does nothing.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install_programs chromium chromium
echo "Browser: $(chromium --version 2>/dev/null)"
