"""Errors that every part of the toolkit raises, each with the exit code of the command that meets it.

A message says what is wrong and how to cure it; commands print it as one line, without a traceback.
"""


class AlgmError(Exception):
    """Something failed that the user can understand and fix. Exit code 1."""

    exit_code = 1


class UsageError(AlgmError):
    """The caller asked for something that makes no sense. Exit code 2."""

    exit_code = 2


class VerificationError(AlgmError):
    """Two results that must agree do not. Exit code 3."""

    exit_code = 3


class MissingDependencyError(AlgmError):
    """The machine lacks a package, a library or a device. Exit code 4."""

    exit_code = 4


class PartialFailureError(AlgmError):
    """Some inputs failed, the others are done. Exit code 5."""

    exit_code = 5
