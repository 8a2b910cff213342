#!/bin/sh
# An image with a shell and a few tools of this machine, for the stories of the back end `docker`: no registry needed.
set -eu
image=longshore-test:1
docker image inspect "$image" >/dev/null 2>&1 && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/tmp" "$root/src"
for tool in sh sleep cat head tail ls mkdir touch; do
    program=$(readlink -f "$(command -v "$tool")")
    cp "$program" "$root/bin/$tool"
    ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
done
tar -C "$root" -c . | docker import --change 'ENV PATH=/bin' - "$image" >/dev/null
echo "made $image"
