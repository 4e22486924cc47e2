"""Make WebP thumbnails of a photograph. This file knows pictures and nothing of jobs."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

# The longer side of each thumbnail, in pixels: what a page needs to serve every screen from one photograph.
SIZES = range(32, 512 + 1, 32)


class NotAPicture(Exception):
    """Raised when a file is no picture that Pillow can read, or a broken one."""


def thumbnail_path(folder: Path, photo: Path, size: int) -> Path:
    """Where the thumbnail of one size goes: `chelsea.png/256.webp`."""
    return folder / photo.name / f"{size}.webp"


def make_thumbnails(photo: Path, folder: Path) -> Iterator[Path]:
    """Make one thumbnail after the other, and yield the path of each once it is there.

    No thumbnail is larger than its photograph. A file is there whole or not at all, so a job that is run again does no harm.

    Raises:
        NotAPicture: the file cannot be read as a picture.
    """
    picture = _read(photo)
    (folder / photo.name).mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        small = picture.copy()
        small.thumbnail((size, size))
        path = thumbnail_path(folder, photo, size)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        small.save(part, "WEBP", quality=82, method=6)
        part.replace(path)
        yield path


def _read(photo: Path) -> Image.Image:
    try:
        with Image.open(photo) as opened:
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except UnidentifiedImageError:
        raise NotAPicture(f"{photo.name} is not a picture that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's own errors have no number; those of the file system have one, and may pass.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise NotAPicture(f"{photo.name} is a broken picture: {error}") from error
