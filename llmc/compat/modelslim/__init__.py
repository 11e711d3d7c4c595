"""msModelSlim's YAML dialect: read as it is written there, translated into the one `Config`."""

from llmc.config.document import Document


def is_dialect(document: Document) -> bool:
    """Whether a file is in it."""
    return "apiversion" in document.values
