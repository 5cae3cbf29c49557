"""Errors that a user can mend: one sentence each, shown without a traceback."""


class StudyError(Exception):
    """Something outside the code went wrong; the message says what, what is allowed and what to do."""

    exit_code = 1


class ParameterError(StudyError):
    """A parameter's value is not allowed."""

    exit_code = 2
