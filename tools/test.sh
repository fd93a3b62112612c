#!/bin/bash
# Install what is missing, build, run the tests, and say what was skipped and why.
#     tools/test.sh [--label unit|golden|ranks|layouts|faults|fuzz|slurm|install] [--build-only] [-- further arguments of ctest]
# Builds into build/release.  No test needs the network, a GPU or more than one machine.
set -euo pipefail
cd "$(dirname "$0")/.."

build_only=0
ctest_args=()
while [ $# -gt 0 ]; do
    case $1 in
        --label) ctest_args+=(-L "^${2:?test.sh: --label needs the name of a label}\$"); shift 2 ;;
        --label=*) ctest_args+=(-L "^${1#--label=}\$"); shift ;;
        --build-only) build_only=1; shift ;;
        --) shift; ctest_args+=("$@"); break ;;
        -h | --help) sed -n '2,4p' "$0" | cut -c3-; exit 0 ;;
        *) echo "test.sh: $1 is no option of mine (--label L, --build-only, -- arguments of ctest)" >&2; exit 2 ;;
    esac
done

tools/packages.sh run build test slurm
[ -e /usr/share/modules/init/bash ] || tools/packages.sh lmod
cmake --preset release
cmake --build --preset release
[ "$build_only" = 1 ] && exit 0

# Open MPI refuses root otherwise, and the tests in a container run as root.
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec tools/ctest.sh build/release "${ctest_args[@]}"
