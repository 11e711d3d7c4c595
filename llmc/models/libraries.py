"""What diffusers, transformers and tokenizers raise where a folder makes no sense to them, in our words."""

from __future__ import annotations

from types import TracebackType

from llmc.errors import AdapterError, LlmcError
from llmc.files.words import shown

BROKEN = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
    ImportError, MemoryError,
)  # fmt: skip
OWN = frozenset({"SafetensorError", "StrictDataclassFieldValidationError", "StrictDataclassClassValidationError"})


class Loading:
    """While a library loads `what`: whatever it raises about it becomes an AdapterError that names it."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None or error is None or issubclass(kind, LlmcError):
            return
        # tokenizers has no class of its own, and raises Exception itself
        if kind is Exception or issubclass(kind, BROKEN) or kind.__name__ in OWN:
            says = next((line for line in str(error).splitlines() if line.strip()), "nothing more")
            raise AdapterError(
                f"{self.what} cannot be loaded: {kind.__name__}, {shown(says)}; its files must be as they were saved: "
                "copy or download them again"
            ) from error
