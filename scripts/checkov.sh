#!/bin/sh
# checkov over the Terraform modules, in an environment of its own: it brings a hundred packages that nothing else here needs.
set -eu
cd "$(dirname "$0")/.."
place=build/checkov
[ -x "$place/bin/checkov" ] || {
    .venv/bin/python -m venv "$place"
    "$place/bin/pip" install -q checkov
}
for module in aws gcp; do
    "$place/bin/checkov" --directory "terraform/$module" --framework terraform --compact --quiet --skip-download
done
