"""Errors that a user can mend: one sentence each, shown without a traceback."""

from cnnsim_tf.process.redaction import shown


class StudyError(Exception):
    """Something outside the code went wrong; the message says what, what is allowed and what to do.

    Whatever a user gave that is named in it, it is one line of at most LONGEST characters, all of which can be seen.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class ParameterError(StudyError):
    """A parameter's value is not allowed."""

    exit_code = 2
