#!/usr/bin/env bash
# Builds the images of docker-compose.yml without a registry, under the names it uses: for machines that reach
# Debian's packages and Cargo's, and nothing else. All but Grafana's, of which there is no package.
#
#   scripts/local-images.sh          then: docker-compose up --no-build demo prometheus
#
# They stand in for the published ones on this machine alone: what is in them is this machine's longshore (built for
# release, or the binary named in LONGSHORE_BINARY), the nats-server the tests use, and Debian's Prometheus, whose
# version is another than the one the name says. `docker rmi` them before you pull the real ones.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in docker debootstrap prometheus; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install docker.io debootstrap prometheus" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root" >&2; exit 1; }

# The name of an image as the compose file has it.
image() { sed -n "s|^ *image: \($1:.*\)|\1|p" docker-compose.yml | head -1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=longshore-base:bookworm

# busybox: the health checks of the published images use its wget.
if ! docker image inspect "$base" >/dev/null 2>&1; then
  debootstrap --variant=minbase --include=busybox bookworm "$work/base"
  ln -s /usr/bin/busybox "$work/base/usr/local/bin/wget"
  rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/*
  tar -C "$work/base" -c . | docker import - "$base"
fi

build() {
  # No BuildKit: it looks for the base in a registry first.
  DOCKER_BUILDKIT=0 docker build --quiet --tag "$1" "$work/$2"
}

mkdir "$work"/{longshore,nats,prometheus}

binary="${LONGSHORE_BINARY:-}"
if [ -z "$binary" ]; then
  cargo build --release --locked --features kubernetes --bin longshore
  binary="${CARGO_TARGET_DIR:-target}/release/longshore"
fi
cp "$binary" "$work/longshore/longshore"
# The last stage of the Dockerfile, as it stands, on this base and with this binary.
sed -n '/^FROM debian/,$p' Dockerfile |
  sed -e "s|^FROM debian.*|FROM $base|" -e 's|^COPY --from=build [^ ]* |COPY longshore |' >"$work/longshore/Dockerfile"
build "$(image longshore)" longshore

cp -L "$(scripts/nats-server.sh)" "$work/nats/nats-server"
printf 'FROM %s\nCOPY nats-server /usr/local/bin/nats-server\n' "$base" >"$work/nats/Dockerfile"
build "$(image nats)" nats

cp -L "$(command -v prometheus)" "$work/prometheus/prometheus"
cat >"$work/prometheus/Dockerfile" <<EOF
FROM $base
COPY prometheus /bin/prometheus
RUN install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
EOF
build "$(image prom/prometheus)" prometheus
