"""The error of training data that cannot be used, in one line for whoever gave them."""


class DataError(ValueError):
    """A training folder is not as documented; the message says which file and what to do."""
