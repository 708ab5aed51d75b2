"""`make audit`: known vulnerabilities of every package in the locks, from the package index's own list.

python -m tests.release.audit
"""

from __future__ import annotations

import subprocess
import sys

from tests.release.artifacts import ROOT, tools

LOCKS = ("requirements.txt", "requirements-dev.txt", "tests/keyservices/requirements.txt")


def main() -> None:
    """Fails on a vulnerability, and on a package that the index doesn't know: an audit that saw nothing isn't clean."""
    failed = False
    for lock in LOCKS:
        print(f"== {lock}", flush=True)
        options = ["--strict", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
        command = [str(tools() / "pip-audit"), *options, "-r", str(ROOT / lock)]
        failed |= subprocess.run(command, check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
