#!/bin/sh
# make install: finds a Python >= 3.11 that can make environments, and hands over to install.py.
set -eu
cd "$(dirname "$0")/.."

if [ -x .venv/bin/python ]; then
    code=0
    .venv/bin/python scripts/install.py || code=$?
    case $code in
        0 | 1 | 130) exit $code ;;
    esac
fi

# An activated .venv is no Python to make it anew with.
PATH=$(printf ':%s:' "$PATH" | sed "s|:$(pwd -P)/.venv/bin:|:|g; s|^:||; s|:\$||")

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=
for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$name" >/dev/null 2>&1 && usable "$name"; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    echo "make install: no Python 3.11 or newer on PATH; set PYTHON=/path/to/python3" >&2
    exit 1
fi
exec "$python" scripts/install.py
