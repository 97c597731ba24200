"""`python -m kitaru_fs.bench`: measures rows and prints them with their ratios.

Rounds of a row and its baseline are run in turn, so that a noisy machine is noisy for both: read
the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from kitaru_fs.bench.report import Figure, machine, picture
from kitaru_fs.bench.rows import ROWS, Scale, working


def main() -> int:
    """Measures what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kitaru_fs.bench", description=__doc__)
    parser.add_argument("--rows", default="steps,start", help="of: " + ", ".join(ROWS) + ", all")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--steps", type=int, default=200, help="steps in a round")
    parser.add_argument("--full", action="store_true", help="the targets' sizes, not a tenth")
    parser.add_argument("--dir", help="where to work: the disk that is measured")
    parser.add_argument("--peers", metavar="DIR", help="the environment of the row `peers`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture too")
    options = parser.parse_args()
    names = [name for name in ROWS if name != "peers"] if options.rows == "all" else []
    names = names or options.rows.split(",")
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}")
    if options.peers:
        os.environ["KITARU_BENCH_PEERS"] = os.path.abspath(options.peers)
    scale = Scale(options.rounds, options.steps, full=options.full)
    figures: list[Figure] = []
    with working(options.dir) as place:
        where = machine(place)
        if not options.json:
            print(f"{where}; {scale.rounds} paired rounds, medians", flush=True)
        for name in names:
            folder = place / name
            folder.mkdir()
            for figure in ROWS[name](folder, scale):
                figures.append(figure)
                if not options.json:
                    print(figure.line(), flush=True)
    if options.json:
        rows = [figure.to_json() for figure in figures]
        print(json.dumps({"machine": where, "rounds": scale.rounds, "rows": rows}, indent=2))
    if options.svg:
        options.svg.write_text(picture(figures, where))
    return 0


if __name__ == "__main__":
    sys.exit(main())
