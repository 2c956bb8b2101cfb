"""The errors that interp raises on purpose: each message says what was expected, what came and what to do."""


class InterpError(Exception):
    """Base of all errors that interp raises on purpose. The command line prints its message without a traceback."""


class InputError(InterpError, ValueError):
    """What the caller gave cannot be used (a text, a model, a name, a folder). Raised before expensive work starts."""


class RunError(InterpError, RuntimeError):
    """The run itself went wrong (NaN in a model's activations, a full disk)."""
