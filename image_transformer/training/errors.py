"""Why a training ends early."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, in one line, and what to try."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the run is saved and can be resumed."""
