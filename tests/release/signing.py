"""Signing the files of a release with sigstore, if this machine has an identity: a CI job that may request one.

Nobody keeps a key: the identity signs with a certificate that is valid for minutes, and the signature is recorded in a
public log. Without an identity, the command is printed; it opens a browser.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

IDENTITIES = ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "SIGSTORE_ID_TOKEN")  # for GitHub's jobs, and for GitLab's
BUNDLE = ".sigstore.json"


def command(program: Path | str, files: Sequence[Path]) -> list[str]:
    """Sign all files; each gets a bundle next to it."""
    return [str(program), "sign", *map(str, files)]


def sign_all(folder: Path, *, program: Path, environment: Mapping[str, str]) -> Sequence[Path]:
    """Returns the bundles; without an identity, none, and prints how to sign. Raises CalledProcessError."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.endswith(BUNDLE))
    if not any(name in environment for name in IDENTITIES):
        print("not signed, no identity here. To sign: " + " ".join(command("sigstore", files)))
        return ()
    subprocess.run(command(program, files), check=True)
    return [Path(f"{path}{BUNDLE}") for path in files]
