"""Pictures: JPEG, PNG, WebP and BMP as RGB pixels, upright.

Told by their first bytes and never by their names. What data sets of pictures really hold is made into what a
viewer shows: the EXIF orientation is applied; greyscale, palettes and CMYK become RGB; 16 bits become 8; what is
transparent keeps its colour, as the usual loaders do it. A file with several pictures in it is no picture: a stream
of JPEGs and an animated PNG are videos, which FFmpeg reads, and an animated WebP is refused.
"""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.Image import Image, Transpose

from jepa.data.decoders.shrink import shrunk
from jepa.data.limits import Limits
from jepa.data.video_file import one_line, start_of
from jepa.errors import SampleError

PICTURE_ENDINGS = frozenset({"bmp", "jfif", "jpe", "jpeg", "jpg", "png", "webp"})
"""Endings of the pictures that are taken from a folder, without the dot, in lower case."""

QUALITY = 95
"""Of the JPEG that a picture becomes when it is made smaller."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM....\0\0\0\0", re.DOTALL)
_NEXT_JPEG = re.compile(rb"\xff\xd9\0*\xff\xd8\xff")
_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""Value of the EXIF orientation -> what makes the picture upright."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    pixels: np.ndarray
    """uint8 (H, W, 3) RGB."""
    codec: str
    """jpeg, png, webp or bmp."""

    @property
    def extension(self) -> str:
        """Usual ending of such a file, without the dot."""
        return "jpg" if self.codec == "jpeg" else self.codec


def is_picture(file: bytes | Path, label: str, limits: Limits) -> bool:
    """Whether this is one picture.

    Raises:
        SampleError: the file cannot be read or is too large.
    """
    try:
        limits.check_size(file, label)
        start = start_of(file, 64)
        if _SIGNATURE.match(start) is None:
            return False
        if start[:2] == b"\xff\xd8":
            # Cameras write a second, small or large, picture behind the first; they say so ("MPF").
            content = file if isinstance(file, bytes) else file.read_bytes()
            return b"MPF\0" in content[:65536] or _NEXT_JPEG.search(content) is None
        return start[:4] != b"\x89PNG" or b"acTL" not in start
    except OSError as error:
        raise SampleError(f"{label}: {error.strerror or one_line(error)}") from None


def read_picture(file: bytes | Path, label: str, limits: Limits) -> Picture:
    """Decode a picture.

    Raises:
        SampleError: it is damaged, has several frames, or exceeds the limits.
    """
    try:
        limits.check_size(file, label)
        stream: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else file.open("rb")
        with stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes and odd EXIF: the limits are ours, and neither is an error
            with PIL.Image.open(stream, formats=_FORMATS) as image:
                limits.check_pixels(image.height, image.width, label)
                if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
                    raise SampleError(f"{label}: an animated WebP; convert it to a video")
                image.load()
                return Picture(_rgb(_upright(image)), _codec(image))
    except SampleError:
        raise
    except PIL.Image.DecompressionBombError as error:  # Pillow has a limit too, above ours unless ours was raised
        limit = f"the {limits.max_pixels} pixels of loader.limits.max_pixels"
        raise SampleError(f"{label}: more than {limit}, or than Pillow allows ({one_line(error)})") from None
    except Exception as error:  # damaged files make Pillow raise many kinds
        raise SampleError(f"{label}: no picture that can be read ({one_line(error)})") from None


def stored_picture(file: bytes | Path, short_side: int | None, label: str, limits: Limits) -> bytes:
    """What is stored of a picture: the file as it is or, if its shorter side is longer than `short_side`, a JPEG.

    Raises:
        SampleError: it cannot be decoded.
    """
    pixels_HWC = read_picture(file, label, limits).pixels
    small_HWC = shrunk(pixels_HWC, short_side)
    if small_HWC is pixels_HWC:
        return file if isinstance(file, bytes) else file.read_bytes()
    stream = io.BytesIO()
    PIL.Image.fromarray(small_HWC).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _codec(image: Image) -> str:
    return {"JPEG": "jpeg", "MPO": "jpeg"}.get(image.format or "", (image.format or "").lower())


def _upright(image: Image) -> Image:
    """The picture turned as its EXIF data say; unreadable EXIF data say nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is written by every camera in its own way
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bit grey: Pillow would clip it
        grey_HW = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
