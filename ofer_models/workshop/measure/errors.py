"""The error of an evaluation that cannot be made, in one line for whoever asked for it."""


class EvaluationError(ValueError):
    """A set's folder or its predictions are not as documented; the message says which file and what to do."""
