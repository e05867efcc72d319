#!/bin/sh
# make test: Debian packages where they can be had, lint, then every test.
# With CI=true a test that is skipped is an error, and so is a tool that is missing.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python

if ! "$python" scripts/packages.py blender caddy chromium cloud-init dnsmasq-base ffmpeg fonts-dejavu-core iproute2 mariadb-client-core mariadb-server-core packer postgresql povray shellcheck slapd sudo systemd; then
    [ "${CI:-}" = true ] && exit 1
    echo "make test: the tests that need them are skipped" >&2
fi
scripts/lint.sh
# Much of the time is waiting, for processes and clocks: one more at a time than there are cores.
workers=$(($(nproc) + 1))
[ "$workers" -le 5 ] || workers=5
mkdir -p build
export COVERAGE_FILE=build/coverage.data # make coverage
exec "$python" -m pytest -n "$workers" --dist worksteal "$@"
