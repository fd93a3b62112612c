#!/bin/sh
# One of two ranks dies in a save; the next start finds exactly the old or the new step, and its save is clean.
#   test_ckpt_kill.sh MPIEXEC PROGRAM SHIM
mpiexec=$1
program=$2
shim=$3
base=${TMPDIR:-/tmp}
dir=$(mktemp -d "$base/am_kill_XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
root=
[ "$(id -u)" = 0 ] && root=--allow-run-as-root
fsync=8
rename=32

# start STEP FOUND COMMITTED RANK MASK AT
start() {
    LD_PRELOAD=$shim "$mpiexec" --oversubscribe $root -np 2 "$program" "$dir/run" $1 $4 $5 $6 > "$dir/log" 2>&1
    grep -q "^found $2\$" "$dir/log" || fail "expected 'found $2'" "$@"
    committed=no
    grep -q '^committed$' "$dir/log" && committed=yes
    [ $committed = $3 ] || fail "expected committed: $3" "$@"
    echo "step $1, found $2, committed $3, killed rank $4: ok"
}

fail() {
    echo "FAILED: $*"
    cat "$dir/log"
    exit 1
}

start 1 -1 yes -1 0 0
start 2 1 no 1 $rename 1 # its file has no name yet
start 3 1 no 1 $fsync 2  # between its data and the manifest
start 4 1 no 0 $rename 2 # the manifest has no name yet
start 5 1 no 0 $fsync 5  # the manifest has: from here on it is the new one
start 6 5 yes -1 0 0
[ "$(ls "$dir/run")" = step_00000006 ] || fail "left over: $(ls "$dir/run")"
