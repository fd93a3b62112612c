#!/bin/sh
# Install the Debian packages of some groups of packages.txt, where any is missing.
#     tools/packages.sh [-n] GROUP…          -n: print what is missing and install nothing
# Needs root or sudo only when something is missing.  Exit code 4: it is missing and cannot be installed here.
set -eu
list=$(dirname "$0")/packages.txt

only_print=no
if [ "${1:-}" = -n ]; then
    only_print=yes
    shift
fi
[ $# -gt 0 ] || { echo "packages.sh: which groups?  $(grep -v '^#' "$list" | cut -d' ' -f1 | sort -u | tr '\n' ' ')" >&2; exit 2; }

missing=""
for group in "$@"; do
    names=$(awk -v g="$group" '$1 == g {print $2}' "$list")
    [ -n "$names" ] || { echo "packages.sh: $list has no group $group" >&2; exit 2; }
    for p in $names; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
    done
done
[ -n "$missing" ] || exit 0
if [ $only_print = yes ]; then
    echo "missing:$missing"
    exit 0
fi

command -v apt-get >/dev/null || { echo "packages.sh: no apt-get here; see INSTALL for what to install:$missing" >&2; exit 4; }
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "packages.sh: as root: apt-get install$missing" >&2; exit 4; }
    sudo=sudo
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq || { echo "packages.sh: the package index cannot be reached; missing:$missing" >&2; exit 4; }
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    { echo "packages.sh: not installed:$missing" >&2; exit 4; }
