"""Errors that a person caused or can mend: the scripts print their one line, no trace."""

EXIT_FAILURE = 1
# EX_TEMPFAIL of sysexits.h: "temporary failure, try again". A scheduler may requeue on it.
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


class RunError(Exception):
    """Stops the run; its text is one line that names the value and the remedy."""


class ConfigError(RunError):
    """The config cannot be built."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
