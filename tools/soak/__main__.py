"""python -m tools.soak [--seconds 600] [--out out/soak]: exit status 0 when nothing went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.soak.run import SoakPlan, run_soak


def main(
    seconds: Annotated[float, typer.Option(help="length")] = SoakPlan.seconds,
    cycles: Annotated[int, typer.Option(help="times round the lifecycle")] = SoakPlan.cycles,
    rate: Annotated[float, typer.Option(help="of the camera, Hz")] = SoakPlan.rate,
    out: Annotated[Path, typer.Option(help="folder of soak.json and the node's log")] = Path("out/soak"),
) -> None:
    """A long rough time for ofer_node."""
    summary = run_soak(SoakPlan(seconds=seconds, cycles=cycles, rate=rate), out)
    for name in ("camera", "counts", "memory", "second_memory", "empty_memory", "diagnostics", "node", "second"):
        print(f"{name}: " + ", ".join(f"{key} {v}" for key, v in summary[name].items() if not isinstance(v, list)))
    for problem in summary["problems"]:
        print(f"PROBLEM: {problem}")
    print(f"{summary['seconds']:.0f} s, {len(summary['problems'])} problem(s); {out / 'soak.json'}")
    raise SystemExit(1 if summary["problems"] else 0)


if __name__ == "__main__":
    typer.run(main)
