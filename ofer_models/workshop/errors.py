"""Errors that whoever asked for a training or an evaluation can mend: one line that says which file and what to do."""


class DataError(ValueError):
    """A training folder is not as documented."""


class EvaluationError(ValueError):
    """An evaluation set's folder or its predictions are not as documented."""
