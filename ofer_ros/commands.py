"""What services and parameters ask of a pipeline, in one place; called by the thread that the pipeline belongs to."""

from __future__ import annotations


def forget(pipeline) -> None:
    """Forget every person: tracks, identities, and what lost faces would be known again by."""
    getattr(pipeline, "forget", pipeline.reset)()


def reset_identity(pipeline, track: str, known: list[str]) -> bool:
    """Draw the identity of a track ('': of every track) anew; False when it is none of the `known` tracks."""
    if track and track not in known:
        return False
    if hasattr(pipeline, "reset_identity"):
        pipeline.reset_identity(track or None)
    else:
        pipeline.reset()
    return True


def resize(pipeline, hypotheses: int, steps: int) -> str:
    """Change the number of hypotheses and of sampling steps (0: as the bundle says) of a pipeline at work.

    '', or why that has to wait for the next configure.
    """
    if not hasattr(pipeline, "set_hypotheses"):
        return "hypotheses and steps change at the next configure: this pipeline cannot change them at work"
    pipeline.set_hypotheses(hypotheses)
    pipeline.set_steps(steps or None)
    return ""
