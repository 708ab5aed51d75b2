"""`make release`: build everything into dist/, install each file into an empty place, run the demo there, sign.

python -m tests.release [--only TRIAL] [--dirty]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.release import trials
from tests.release.artifacts import ROOT, build_all, found_in, tools
from tests.release.signing import sign_all
from tests.release.version import versions_in_files


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("--only", default="", help="only the trials whose name contains this")
    parser.add_argument("--built", action="store_true", help="try what dist/ has, and build nothing")
    parser.add_argument("--dirty", action="store_true", help="allow changes that aren't committed; they aren't built")
    given = parser.parse_args()
    versions = versions_in_files(ROOT)
    if len(versions) != 1:
        sys.exit(f"the files name several versions ({', '.join(sorted(versions))}): run make version V=...")
    changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True)
    if changed.stdout and not (given.dirty or given.built):
        sys.exit(f"commit first, a release is built from the commit:\n{changed.stdout}")
    folder = ROOT / "dist"
    files = found_in(folder) if given.built else build_all(folder)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        print(f"{path.stat().st_size / 1024:9.0f} KiB  {path.name}")
    works = trials.run_all(*files, only=given.only)
    if not given.only:  # also try to upgrade data of the previous release
        upgrade = [sys.executable, "-m", "pytest", "-q", "tests/vault/storage/test_upgrades.py"]
        works = subprocess.run(upgrade, cwd=ROOT, check=False).returncode == 0 and works
    if works and not given.built:
        sign_all(folder, program=tools() / "sigstore", environment=os.environ)
    sys.exit(not works)


if __name__ == "__main__":
    main()
