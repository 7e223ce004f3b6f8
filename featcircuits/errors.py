"""The one error a user is meant to see."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message names the thing, the value found and the remedy. The command line prints it alone
    and exits with code 2; from Python it is an ordinary `ValueError`.
    """
