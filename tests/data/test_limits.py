"""Files that announce more than they may are refused from their headers, before anything is allocated."""

import io
import resource
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from jepa.data.decode import backends, decode, probe
from jepa.data.limits import DEFAULT_LIMITS, Limits
from jepa.errors import ConfigError, SampleError


def video(codec: str = "libx264", container: str = "mp4", pixels: str = "yuv420p", spacing: int = 1) -> bytes:
    """Eight frames of 48x64, `spacing` 25ths of a second apart."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(25))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        for number in range(8):
            array = np.full((48, 64, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = number * spacing, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def png_bomb() -> bytes:
    """A PNG of some hundred bytes that announces 65535 x 65535 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(65535))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65535, 65535)
    return bytes(data)


def webp_bomb() -> bytes:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.new("RGB", (16, 16)).save(file, "WEBP")
    data = bytearray(file.getvalue())
    start = data.index(b"\x9d\x01\x2a") + 3
    data[start : start + 4] = struct.pack("<HH", 16383, 16383)
    return bytes(data)


def bmp_bomb() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 65535, 65535, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def large_mov() -> bytes:
    """The sample entry has the only width and height there are, two bytes each."""
    data = bytearray(video("qtrle", "mov", "rgb24"))
    start = data.index(b"rle ") + 4 + 24
    data[start : start + 4] = struct.pack(">HH", 65535, 65535)
    return bytes(data)


def large_avi() -> bytes:
    data = bytearray(video("ffv1", "avi"))
    start = data.index(b"strf") + 8 + 4
    data[start : start + 8] = struct.pack("<ii", 65535, 65535)
    return bytes(data)


@pytest.mark.parametrize("make", [png_bomb, jpeg_bomb, webp_bomb, bmp_bomb, large_mov, large_avi])
def test_a_small_file_that_announces_a_huge_frame(make: Callable[[], bytes]) -> None:
    content = make()
    assert len(content) < 20_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (probe, lambda data: decode(data, [0]), lambda data: decode(data, [0], backend="pyav")):
        with pytest.raises(SampleError, match=r"more than the .*\.max_pixels"):
            read(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_file_that_lasts_for_years() -> None:
    with pytest.raises(SampleError, match=r"175000000 seconds are more than the 86400 of loader\.limits\.max_seconds"):
        probe(video(container="matroska", spacing=25 * 25_000_000))


def test_limits_are_kept_to_the_pixel_second_and_byte(tmp_path: Path) -> None:
    content = video()
    file = tmp_path / "a.mp4"
    file.write_bytes(content)
    exact = Limits(max_pixels=48 * 64, max_seconds=7 / 25, max_megabytes=len(content) / 1e6)
    for given in (content, file):
        for backend in (name for name, version in backends().items() if version):
            assert decode(given, [7], limits=exact, backend=backend).shape == (1, 48, 64, 3)
        for smaller, reason in (
            (replace(exact, max_pixels=48 * 64 - 1), "more than the 3071"),
            (replace(exact, max_seconds=6.9 / 25), "seconds are more"),
            (replace(exact, max_megabytes=(len(content) - 1) / 1e6), "megabytes are more"),
        ):
            with pytest.raises(SampleError, match=reason):
                decode(given, [7], limits=smaller)
            with pytest.raises(SampleError, match=reason):
                probe(given, limits=smaller)
    with pytest.raises(SampleError, match="megabytes are more"):
        decode(content, [7], limits=replace(exact, max_megabytes=0.001), exact=True)


def test_the_frame_size_may_not_grow_beyond_the_limit_inside_a_stream() -> None:
    """The header is within the limit; what the stream holds is not."""
    small = bytearray(video("mjpeg", "mov", "yuvj420p"))
    place = small.index(b"\xff\xc0") + 5
    small[place : place + 4] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(SampleError):
        decode(bytes(small), [0], backend="pyav")


def test_defaults_let_pass_what_cameras_make() -> None:
    DEFAULT_LIMITS.check_pixels(4320, 7680, "8K")
    DEFAULT_LIMITS.check_seconds(12 * 3600, "a night")


@pytest.mark.parametrize("name", ["max_pixels", "max_seconds", "max_megabytes"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"loader.limits.{name} is 0, expected a positive number"):
        Limits(**{name: 0})
