"""Why a training ends early."""

import signal


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, in one line, and what to try."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, `number`: the run is saved and can be resumed."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number
