"""Every error the package raises on purpose.

Each class is also the standard error a caller would catch anyway, so that neither `except ValueError` nor
`except BStarError` misses one.
"""


class BStarError(Exception):
    """Base of all errors of bstar-trl."""


class ConfigurationError(BStarError, ValueError):
    """A setting, or a combination of settings, that cannot work. Raised before any weight is loaded."""


class UnsupportedOptionError(ConfigurationError):
    """A TRL option that B-STaR refuses (see the table of options in the documentation)."""


class MissingDependencyError(BStarError, ImportError):
    """An optional package that was asked for is not installed; the message says how to install it."""


class DatasetError(BStarError, ValueError):
    """The dataset lacks what the run needs: a column, a row."""


class DatasetTypeError(DatasetError, TypeError):
    """The training dataset is none of the kinds that can be read."""


class RewardError(BStarError, ValueError):
    """A reward function returned something that is no reward: NaN, a wrong count, a wrong type."""


class SandboxError(BStarError, RuntimeError):
    """The sandbox cannot do its work on this machine. Never raised for what a program does."""


class EmptySelectionError(BStarError, RuntimeError):
    """Several rounds in a row selected no response at all: there is nothing to learn from."""
