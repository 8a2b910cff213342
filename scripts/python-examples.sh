#!/usr/bin/env bash
# Puts a Python that can run the examples at target/tools/python and prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${CARGO_TARGET_DIR:-target}/tools/python"
wanted="$python/requirements.txt"

# The requirements are copied last: what is there and the same is complete.
if cmp -s examples/requirements.txt "$wanted" && "$python/bin/python" -c 'import nats' 2>/dev/null; then
  echo "$python/bin/python"
  exit 0
fi
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  echo "no python3 with venv: install one (on Debian: apt-get install python3-venv)" >&2
  exit 1
fi
mkdir -p "$(dirname "$python")"
python3 -m venv --clear "$python"
"$python/bin/python" -m pip install --quiet --disable-pip-version-check -r examples/requirements.txt
cp examples/requirements.txt "$wanted"
echo "$python/bin/python"
