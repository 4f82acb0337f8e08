"""Make the studies that come with the package: `hollowbone reproduce SLUG --scale study`, copied to where it is committed.

    python benchmarks/studies.py                    # all systems
    python benchmarks/studies.py mobilenetv2

A study takes some minutes and goes on where it was stopped. Run it on an idle machine and on a clean checkout, for the
machine and the commit are stored with it; then commit the files under src/hollowbone/reproduce/studies.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from hollowbone.files import write_json
from hollowbone.reproduce import get_reproduction, list_reproductions, reproduce
from hollowbone.reproduce.study import COMMITTED, study_folder


def main() -> None:
    """Run, print, copy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="systems; all that can be reproduced unless given")
    slugs = parser.parse_args().slugs or list_reproductions()
    for slug in slugs:
        get_reproduction(slug)  # an unknown name ends the run now and not after the first study
    for slug in slugs:
        Console(width=160).print(reproduce(slug, "study"))
        target = COMMITTED / f"{slug}.json"
        write_json(target, json.loads((study_folder(slug) / "study.json").read_text(encoding="utf-8")))
        print(f"written: {target}")


if __name__ == "__main__":
    main()
