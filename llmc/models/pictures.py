"""Pictures that samples name: whether a model can be given them, told before it is loaded."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # others run programs, or are no pictures of pixels
MAX_SIDE = 16_384
MAX_PIXELS = 2**26
MAX_RATIO = 20  # of the longer side to the shorter; an encoder that scales the shorter one makes the longer one huge
ALLOWED = (
    f"a picture is {', '.join(FORMATS)}, has at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all, and is at most "
    f"{MAX_RATIO} times as long as wide"
)


def picture_problem(path: Path) -> str | None:
    """Why a file cannot be used as a picture, to go on after its name; None if it can."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return "is not there: put the image beside it"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return _problem(path, state.st_mtime_ns, state.st_size) if S_ISREG(state.st_mode) else "is no file: name a picture"


@lru_cache(maxsize=1024)  # calibration and evaluation often name the same ones
def _problem(path: Path, changed: int, size: int) -> str | None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes: they are judged here
            with Image.open(path, formats=FORMATS) as picture:
                if problem := _size_problem(*picture.size):
                    return f"{problem}; {ALLOWED}: scale it down, or cut it"
                picture.draft("RGB", (1, 1))  # of a JPEG it is enough to see that all of it is there
                picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"is no picture that can be read: {error}; {ALLOWED}: save it again"
    return None


def _size_problem(width: int, height: int) -> str | None:
    found = f"has {width}x{height} pixels"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return found
    return f"{found}, which is too narrow" if max(width, height) > MAX_RATIO * min(width, height) else None
