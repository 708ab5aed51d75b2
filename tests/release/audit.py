"""`make audit`: known vulnerabilities of every package in the locks, from the package index's own list.

The locks of other programs that the suite runs as clients (`tests/sdks`) are left out: old releases are their purpose.

python -m tests.release.audit
"""

from __future__ import annotations

import subprocess
import sys

from tests.release.artifacts import ROOT, tools

LOCKS = (
    "requirements.txt",
    "requirements-dev.txt",
    "deploy/helm/requirements.txt",
    "deploy/site/requirements.txt",
    "tests/fuzz/requirements.txt",
    "tests/keyservices/requirements.txt",
    "tests/mutation/requirements.txt",
    "tests/release/tools.txt",
)
_UNKNOWN = "could not be audited"  # pip-audit's words for a package that the index tells nothing about


def main() -> None:
    """Fails on a vulnerability, and on a package that the index doesn't know: an audit that saw nothing isn't clean."""
    failed = is_silent = False
    for lock in LOCKS:
        print(f"== {lock}", flush=True)
        options = ["--strict", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
        command = [str(tools() / "pip-audit"), *options, "-r", str(ROOT / lock)]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        print(done.stderr, end="", file=sys.stderr, flush=True)
        failed |= done.returncode != 0
        is_silent |= _UNKNOWN in done.stderr
    if is_silent:
        print(
            "The package index had no data on a package. A mirror may have none at all: run this where "
            "https://pypi.org/pypi/PACKAGE/json answers.",
            file=sys.stderr,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
