"""python -m tools.soak [--seconds 600] [--out out/soak]: exit status 0 when nothing went wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.soak.run import SoakPlan, run_soak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.soak", description="A long rough time for ofer_node.")
    defaults = SoakPlan()
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="length (default: %(default)s)")
    parser.add_argument("--cycles", type=int, default=defaults.cycles, help="times round the lifecycle")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="of the camera, Hz (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder of soak.json and the node's log")
    given = parser.parse_args(argv)
    summary = run_soak(SoakPlan(seconds=given.seconds, cycles=given.cycles, rate=given.rate), given.out)
    for name in ("camera", "counts", "memory", "diagnostics", "node"):
        print(f"{name}: " + ", ".join(f"{key} {v}" for key, v in summary[name].items() if not isinstance(v, list)))
    for problem in summary["problems"]:
        print(f"PROBLEM: {problem}")
    print(f"{summary['seconds']:.0f} s, {len(summary['problems'])} problem(s); {given.out / 'soak.json'}")
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
