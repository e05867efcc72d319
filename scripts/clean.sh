#!/bin/sh
# make clean: removes what can be made again: the environment, builds, caches.
set -eu
cd "$(dirname "$0")/.."
rm -rf .venv build dist ./*.egg-info webui/dist webui/node_modules
rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +
