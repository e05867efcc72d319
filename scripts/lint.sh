#!/bin/sh
# make lint: style, types, import contracts, shell scripts. All of them are run, then the result is told.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=

check() {
    name=$1
    shift
    "$@" || failed="$failed $name"
}

check ruff "$bin/ruff" check .
check mypy "$bin/mypy"
check mypy-scripts "$bin/mypy" scripts examples worker_image
for system in win32 darwin; do # a worker runs there, too
    check "mypy-$system" "$bin/mypy" --config-file scripts/mypy-other.ini --platform "$system" --cache-dir ".mypy_cache/$system" \
        coalition/worker.py coalition/self_test.py coalition/client.py
done
check lint-imports "$bin/lint-imports"
if command -v shellcheck >/dev/null 2>&1; then
    check shellcheck shellcheck scripts/*.sh .ci/run worker_image/provision.sh worker_image/files/dead-man
elif [ "${CI:-}" = true ]; then
    echo "make lint: shellcheck is missing" >&2
    failed="$failed shellcheck"
else
    echo "make lint: shellcheck is missing; the shell scripts were not checked" >&2
fi
[ -z "$failed" ] || { echo "make lint: failed:$failed" >&2; exit 1; }
