#!/usr/bin/env python3
"""Faults of one rank, seen from outside: exit code of mpirun, the sentence that is printed, the time until all are gone.

    test_comm_faults.py MPIRUN COMM_FAULT [MODE ...]
"""
import os
import subprocess
import sys
import time

MPIRUN, PROGRAM = sys.argv[1:3]

# mode: (ranks, exit codes allowed, seconds within which all is over, texts of which each must appear)
CASES = {
    "none": (3, {0}, 10, []),
    "signal": (2, {0}, 10, ["signal seen by main"]),
    "code": (3, {5}, 10, ["FAULT rank 1 found a NaN"]),
    "kill": (2, {137}, 10, []),
    # the watchdog of the others: rank 1 is named, its sequence and the collective too
    "stop": (2, {7}, 15, ["FAULT rank 0 waited 2.0 s for 'reduce layer 3' (exchange, sequence 7 of group dp_shard+dp_replicate",
                          "missing: the data of rank 1", "rank 1 does not answer"]),
    "longer": (2, {4}, 10, ["do not run the same collective", "'reduce layer 3'", "300 bytes", "100 bytes"]),
    "shorter": (2, {4}, 10, ["do not run the same collective", "'reduce layer 3'", "30 bytes", "100 bytes"]),
    "large": (2, {4}, 10, ["do not run the same collective", "100000 bytes", "90000 bytes"]),
    "point": (2, {4}, 10, ["rank 0 is in the control call 'recv' (100 bytes from rank 1)", "rank 1 sent 30 bytes"]),
    "kind": (2, {7}, 15, ["for 'reduce layer 3' (exchange",
                          "is in it too, as 'gather layer 4' (all-gather, 100 bytes a piece)"]),
    "sequence": (2, {7}, 15, ["for 'reduce layer 3' (exchange, sequence 7",
                              "what it last started in this group is 'gather layer 4' (exchange, sequence 8"]),
}


def run(mode, ranks):
    command = [MPIRUN, "--oversubscribe", "-np", str(ranks), PROGRAM, mode]
    if os.geteuid() == 0:
        command.insert(1, "--allow-run-as-root")
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    return done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - begin


def main():
    bad = 0
    for mode in sys.argv[3:] or CASES:
        ranks, codes, seconds, texts = CASES[mode]
        code, output, took = run(mode, ranks)
        wrong = [f"'{t}' is missing" for t in texts if t not in output]
        if code not in codes:
            wrong.append(f"exit code {code}, expected {sorted(codes)}")
        if took > seconds:
            wrong.append(f"took {took:.1f} s, allowed {seconds}")
        print(f"{'FAIL' if wrong else 'ok'}: {mode} ({ranks} ranks, code {code}, {took:.1f} s)")
        if wrong:
            bad += 1
            print("  " + "\n  ".join(wrong) + "\n--- output\n" + output + "---")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
