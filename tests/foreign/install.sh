#!/bin/sh
# Has npm install the clients of package.json into a folder. Without npm, or when npm fails, their tests are
# skipped by name.
# Usage: install.sh FOLDER
set -eu
list="$(dirname "$0")/package.json"
command -v npm >/dev/null || exit 0
[ -d "$1/node_modules" ] && [ "$1/installed" -nt "$list" ] && exit 0
mkdir -p "$1"
cp "$list" "$1/package.json"
cd "$1"
if PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 timeout 120 npm install \
    --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error
then
    touch installed
fi
