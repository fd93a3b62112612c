#!/bin/sh
# Every layout of 1 to 4 ranks writes, then every layout reads what all have written.
#   test_ckpt_layouts.sh MPIEXEC PROGRAM
mpiexec=$1
program=$2
base=${TMPDIR:-/tmp}
dir=$(mktemp -d "$base/am_layouts_XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
root=
[ "$(id -u)" = 0 ] && root=--allow-run-as-root
for mode in write read; do
    for n in 1 2 3 4; do
        "$mpiexec" --oversubscribe $root -np $n "$program" $mode "$dir" > "$dir/log" 2>&1 || {
            echo "$mode with $n ranks failed:"
            cat "$dir/log"
            exit 1
        }
        echo "$mode with $n ranks: ok"
    done
done
