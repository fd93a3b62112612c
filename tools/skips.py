#!/usr/bin/env python3
"""What a run of ctest left out, and why:   skips.py JUNIT_FILE

Lists tests that ended with 77 and, within tests that ran, the cases that cmocka skipped; the reason is the last line the
test printed before it gave up.  Ends with one line of counts.  Exit code 1 when a test was skipped and gave no reason.
"""
import re
import sys
import xml.etree.ElementTree as ElementTree

NOISE = re.compile(r"^\[[ =\-A-Z]+\]|^\s*$|^\d+ SKIPPED TEST")


def reason(lines):
    """The last line that is not the framework's own; '' when there is none."""
    said = [line.strip() for line in lines if not NOISE.match(line)]
    return re.sub(r"^(?:\w+: )?skipped: ", "", said[-1]) if said else ""


def skipped_cases(output):
    """{case: reason} of every case of a cmocka program that called skip(); ranks under mpirun say it once each."""
    found, said = {}, {}
    for line in output.splitlines():
        m = re.match(r"\[ +(RUN|SKIPPED) +\] (\S+)$", line)
        if m and m.group(1) == "RUN":
            said[m.group(2)] = []
        elif m and m.group(2) in said:
            found.setdefault(m.group(2), reason(said.pop(m.group(2))))
        else:
            for lines in said.values():
                lines.append(line)
    return found


def main():
    tests = ElementTree.parse(sys.argv[1]).getroot().findall("testcase")
    whole, cases, failed = [], [], 0
    for test in tests:
        output = test.findtext("system-out") or ""
        skipped = test.find("skipped")
        if skipped is not None and not skipped.get("message", "").startswith("SKIP_"):
            failed += 1  # "Unable to find executable": it was not built
        elif skipped is not None:
            whole.append((test.get("name"), reason(output.splitlines())))
        else:
            cases += [(f"{test.get('name')}: {case}", why) for case, why in skipped_cases(output).items()]
        failed += test.get("status") == "fail"
    if whole or cases:
        print("\nskipped:")
    for name, why in whole + cases:
        print(f"  {name}: {why or 'no reason given'}")
    silent = [name for name, why in whole if not why]
    print(f"\n{len(tests) - len(whole) - failed} passed, {failed} failed, {len(whole)} skipped"
          + (f"; {len(cases)} cases skipped within tests that ran" if cases else ""))
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
