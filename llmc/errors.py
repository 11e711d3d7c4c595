"""Everything a user can mend. Each message says what was found, what is allowed, and what to do.

LlmcError
├── ConfigError        the YAML or the command line
├── UnsupportedSpec    a number format that a layer, method or target cannot take
├── AdapterError       the model does not fit its adapter
├── CalibrationError   the calibration data or its statistics
├── ExportError        the files to write, read or convert
├── FolderInUse        another process works in the folder
└── OutOfMemory        of the host or of a device
"""


class LlmcError(Exception):
    """Something the user can mend: shown without a traceback, exit code 2."""


class ConfigError(LlmcError):
    """The configuration or the command line is wrong."""


class UnsupportedSpec(LlmcError):
    """A layer, method or target cannot take the number format asked for."""


class AdapterError(LlmcError):
    """The model in the folder does not fit the adapter that was chosen."""


class CalibrationError(LlmcError):
    """Calibration samples or statistics cannot be used."""


class ExportError(LlmcError):
    """A checkpoint cannot be written, read or converted."""


class FolderInUse(LlmcError):
    """Another process works in the folder."""


class OutOfMemory(LlmcError):
    """The memory of the host or of a device does not suffice."""
