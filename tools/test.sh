#!/bin/sh
# Install what is missing, build, run the tests.    tools/test.sh [arguments of ctest, e.g. -L unit]
# Debian 12 or Ubuntu 24.04 names of packages; elsewhere install the same libraries by hand (INSTALL).
set -eu
cd "$(dirname "$0")/.."

packages="gcc cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libyaml-dev libhwloc-dev libdnnl-dev
libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libssl-dev libzstd-dev zlib1g-dev libprotobuf-c-dev libcmocka-dev
python3 python3-jinja2"

missing=""
for p in $packages; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || { echo "test.sh: no apt-get here; install:$missing" >&2; exit 4; }
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
fi

[ "${AM_ONLY_PACKAGES:-}" = 1 ] && exit 0
cmake --preset release
cmake --build --preset release
[ "${AM_ONLY_BUILD:-}" = 1 ] && exit 0
exec ctest --test-dir build/release --output-on-failure "$@"
