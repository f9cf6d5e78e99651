"""`make audit`: whether a fault is known of anything in the lock files. Knows pip-audit's report, and trusts no
silence.

pip-audit ends well where the list of known faults cannot be reached and each package is "skipped". Here that is no good
end: 0 says that all were looked up and nothing is known, 1 that a fault is known, 2 that somebody has to look again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

FINE, FAULTS, NOT_AUDITED = range(3)

_PATIENCE = 600


def run(command: Sequence[str], files: Sequence[str]) -> int:
    """Have `command` (pip-audit) look up what is in `files`, say what came of it, and return the exit code."""
    asked = [argument for file in files for argument in ("-r", file)]
    try:
        done = subprocess.run(
            [*command, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", *asked],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        report = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired) as error:
        return _not_audited(str(error))
    except (ValueError, LookupError, TypeError):
        return _not_audited(done.stderr.strip().rpartition("\n")[2])
    skipped = [one for one in report if "skip_reason" in one]
    faults = [(one, fault) for one in report for fault in one.get("vulns", ())]
    for one, fault in faults:
        fixed = ", ".join(fault.get("fix_versions", ())) or "nothing yet"
        print(f"{one['name']} {one['version']}: {fault['id']}, mended in {fixed}")
    if faults:
        print(f"{len(faults)} known faults: raise the versions (make lock LOCK=--upgrade)")
        return FAULTS
    if skipped or not report:
        return _not_audited(skipped[0]["skip_reason"] if skipped else "pip-audit looked at nothing", len(skipped))
    print(f"Nothing is known against {len(report)} packages.")
    return FINE


def _not_audited(why: str, count: int = 0) -> int:
    print(
        f"NOT AUDITED: {count or 'the'} packages could not be looked up in the list of known faults.", file=sys.stderr
    )
    print(f"pip-audit says: {why}", file=sys.stderr)
    return NOT_AUDITED


if __name__ == "__main__":
    sys.exit(run([sys.executable, "-m", "pip_audit"], sys.argv[1:]))
