#!/bin/bash
# Run the tests of a build folder, two slots a core (tests/CMakeLists.txt says which fit beside each other), and list every
# skip with its reason: a skip is never a pass.
#     tools/ctest.sh BUILD_FOLDER [arguments of ctest]          exit code: ctest's, 1 when there was nothing to run
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:?ctest.sh: which build folder?}
shift
report=$(mktemp)
trap 'rm -f "$report"' EXIT
rc=0
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that spin take the core from the test beside them
ctest --test-dir "$build" -j "${CTEST_PARALLEL_LEVEL:-$((2 * $(nproc)))}" --output-on-failure --no-tests=error --test-output-size-passed 262144 --output-junit "$report" "$@" || rc=$?
if [ -s "$report" ]; then python3 "$here/skips.py" "$report" || rc=1; fi
exit $rc
