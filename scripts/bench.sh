#!/bin/sh
# make bench: prints each figure with its limit.
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/python -m tests.bench "$@"
