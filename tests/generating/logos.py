"""Vendor the logos of services from npm's `simple-icons` (CC0 1.0): `python -m tests.generating.logos [FOLDER]`.

FOLDER is an unpacked package; without it `npm pack` fetches the version below. Services without a
logo there are shown by their initials. CC0 waives copyright, not trademarks: a logo stands only for its service.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "16.37.0"
ROOT: Final = Path(__file__).parents[2]
TARGET: Final = ROOT / "server" / "portal" / "static" / "logos.json"
NAMES: Final = {  # our name -> the package's name, if they differ
    "cal-com": "caldotcom",
    "github-oauth-app": "github",
    "hugging-face": "huggingface",
    "stack-exchange": "stackexchange",
    "stripe-apps": "stripe",
    "stripe-connect": "stripe",
}


def _fetch_package(folder: Path) -> Path:
    subprocess.run(["npm", "pack", f"simple-icons@{VERSION}", "--silent"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        package.extractall(folder, filter="data")
    return folder / "package"


def logos_from(package: Path) -> dict[str, object]:
    """Our provider's name -> color and path of its logo."""
    data = json.loads((package / "data" / "simple-icons.json").read_text("utf-8"))
    colors = {_slug(one): one["hex"] for one in data}
    found: dict[str, dict[str, str]] = {}
    for file in sorted((ROOT / "providers" / "services").glob("*.toml")):
        name = file.stem
        icon = package / "icons" / f"{NAMES.get(name, name)}.svg"
        if icon.exists():
            path = re.search(r'<path d="([^"]+)"', icon.read_text("utf-8"))
            assert path is not None, icon
            found[name] = {"hex": colors[icon.stem], "path": path[1]}
    return {
        "licence": f"simple-icons {VERSION}, CC0 1.0 Universal; the logos are trademarks of their owners",
        "logos": found,
    }


def _slug(icon: dict[str, str]) -> str:
    if "slug" in icon:
        return icon["slug"]
    plain = icon["title"].lower().replace("+", "plus").replace(".", "dot").replace("&", "and")
    return re.sub(r"[^a-z0-9]", "", plain)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(sys.argv[1]) if len(sys.argv) > 1 else _fetch_package(Path(folder))
        TARGET.write_text(json.dumps(logos_from(package), indent=0, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
