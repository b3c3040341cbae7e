"""Errors that a user can mend: jobs print the message, without a traceback, and exit with 2."""


class UserError(ValueError):
    """Base of the errors that name what was given, where, what is allowed and what to change."""


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(UserError):
    """Input data, or a data-set directory, that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete, damaged or of another model or data set."""


class TrainingError(UserError):
    """Training that has given no usable model, for want of other settings or data."""


class ResourceError(UserError):
    """Memory or machines that a run needs and did not get."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not what was written; an older one may be whole."""
