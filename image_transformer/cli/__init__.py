"""The command `image-transformer`: one file for each verb, which holds its flags and what it does."""


class UsageError(ValueError):
    """A command line that cannot be understood; the message is one line."""
