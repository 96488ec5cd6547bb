#!/bin/sh
# Makes a virtual environment. Debian and Ubuntu leave venv out of Python: as root, or with sudo, this gets it.
# Usage: venv.sh PYTHON FOLDER
set -eu
user=$(id -un)
parent=$(cd "$(dirname "$2")" && pwd)
if ! [ -w "$parent" ]; then
    echo "$user may not write to $parent, where the virtual environment has its place." >&2
    echo "Clone the repository as $user, or give the clone to $user: sudo chown -R $user '$parent'" >&2
    exit 1
fi
as_root="sudo"
[ "$(id -u)" != 0 ] || as_root=""
if ! "$1" -c "import ensurepip" 2>/dev/null; then
    advice="Python has no venv. On Debian or Ubuntu: ${as_root:+sudo }apt-get install -y python3-venv"
    if [ "${TEST_SETUP:-}" = no ] || ! command -v apt-get >/dev/null || { [ "$as_root" ] && ! command -v sudo >/dev/null; }; then
        echo "$advice" >&2
        exit 1
    fi
    echo "Python has no venv yet: installing Debian's python3-venv"
    $as_root apt-get update -qq && $as_root apt-get install -y -qq python3-venv >/dev/null || {
        echo "$advice" >&2
        exit 1
    }
fi
rm -rf "$2"
if ! said=$("$1" -m venv "$2" 2>&1); then
    rm -rf "$2"
    echo "The virtual environment $2 cannot be made: $said" >&2
    exit 1
fi
