"""Every error that the package raises on purpose.

Each class also inherits the standard error that a caller would expect, so `except ValueError` and `except BStarError`
both work.
"""


class BStarError(Exception):
    """Base of all errors of bstar-trl."""


class ConfigurationError(BStarError, ValueError):
    """A setting, or a combination of settings, cannot work. Raised as early as possible."""


class UnsupportedOptionError(ConfigurationError):
    """B-STaR does not support a TRL option (see the table of options in the documentation)."""


class MissingDependencyError(BStarError, ImportError):
    """An optional package is needed and not installed; the message says how to install it."""


class VersionError(BStarError, ImportError):
    """The installed TRL or transformers lacks something that the package builds on; the message names it."""


class DatasetError(BStarError, ValueError):
    """The dataset lacks a column or rows that the run needs, or a row breaks the format."""


class DatasetTypeError(DatasetError, TypeError):
    """The training dataset has a type that the trainer cannot read."""


class RewardError(BStarError, ValueError):
    """A reward function failed, or returned NaN, a wrong number of values or a wrong type."""


class SandboxError(BStarError, RuntimeError):
    """The sandbox cannot work on this machine. A program's behaviour never raises it."""


class OutOfMemoryError(BStarError, RuntimeError):
    """Responses do not fit into the device's memory; the message says which option to lower."""


class SamplingError(BStarError, RuntimeError):
    """The model gives no distribution to sample from: its logits are NaN or infinite."""


class EmptySelectionError(BStarError, RuntimeError):
    """Several rounds in a row selected no response, so there is nothing to train on."""
