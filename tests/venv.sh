#!/bin/sh
# Debian and Ubuntu leave venv out of Python: get it, then make the environment.
# Usage: venv.sh PYTHON FOLDER
set -eu
rm -rf "$2"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
if command -v apt-get >/dev/null && { [ -z "$as_root" ] || command -v sudo >/dev/null; }; then
    echo "Python has no venv yet: installing Debian's python3-venv"
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq python3-venv >/dev/null
fi
if ! "$1" -m venv "$2"; then
    rm -rf "$2"
    echo "No virtual environment can be made. On Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
