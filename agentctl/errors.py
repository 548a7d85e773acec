"""How a command ends other than well; each carries its exit status."""


class CommandError(Exception):
    """Shown to the operator as one paragraph: what is wrong, and what to do next."""

    exit_status = 1


class NothingThere(CommandError):
    """There is nothing to talk to; the text names the command that starts it."""

    exit_status = 3


class Declined(CommandError):
    """Whoever was asked says no, with the reason."""


class TooOld(CommandError):
    """Whoever was asked is an older version, and does not know the question."""


class WrongUse(CommandError):
    """The command's words are off."""

    exit_status = 2
