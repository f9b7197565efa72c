"""Who decodes what: the rule of `auto`, what `exact` saves, files that only one decoder reads right, and torchcodec."""

import io
import logging
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from jepa.data import decode as module
from jepa.data.decode import backends, decode, probe
from jepa.data.decoders import decord_backend, torchcodec_backend
from jepa.data.timeline import inexact, iterate, scan
from jepa.data.video_file import upright
from jepa.errors import ConfigError, DataError, SampleError

needs_decord = pytest.mark.skipif(backends()["decord"] is None, reason="decord is not installed")
needs_torchcodec = pytest.mark.skipif(backends()["torchcodec"] is None, reason="torchcodec is not installed")


def coloured(height: int = 48, width: int = 64, frames: int = 24, **more: Any) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8), **more)


def encoded(
    clip: np.ndarray, codec: str = "libx264", container: str = "mp4", space: int | None = None, **options: str
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(25), options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", 8
        if space is not None:
            stream.codec_context.colorspace = space
        for array in clip:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if space is not None:
                frame.colorspace = space
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def joined(first: bytes, second: bytes, container: str) -> bytes:
    """The packets of two videos, one after the other, as one stream with the facts of the first."""
    file, shift = io.BytesIO(), 0
    with av.open(file, "w", format=container) as output:
        stream = None
        for video in (first, second):
            with av.open(io.BytesIO(video)) as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0])
                last = 0
                for packet in source.demux(video=0):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        last, packet.stream = max(last, packet.pts), stream
                        output.mux(packet)
                step = 1 / (25 * (source.streams.video[0].time_base or 1))
                shift = last + int(step)
    return file.getvalue()


@pytest.fixture(autouse=True)
def _said_nothing() -> None:
    module._say.cache_clear()
    module.announce.cache_clear()


@needs_decord
@pytest.mark.parametrize("backend", ["auto", "decord"])
def test_an_exact_video_is_decoded_without_a_look_at_its_packets(
    backend: module.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = coloured()
    assert probe(video).exact
    expected = decode(video, [3, 20])

    def scanned(*_: object) -> None:
        raise AssertionError("scanned")

    monkeypatch.setattr(module, "scan", scanned)
    np.testing.assert_array_equal(decode(video, [3, 20], backend=backend, exact=True), expected)
    with pytest.raises(AssertionError, match="scanned"):
        decode(video, [3, 20], backend=backend)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("frames", [[], [-1, 0], [0, 24]])
def test_frames_that_are_not_there(frames: list[int], exact: bool) -> None:
    for backend in (name for name, version in backends().items() if version):
        with pytest.raises(SampleError, match="asked for frames"):
            decode(coloured(), frames, backend=backend, exact=exact)


@needs_decord
def test_what_decord_cannot_read_goes_to_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> np.ndarray:
        raise SampleError("decord: no")

    expected = decode(coloured(), [5], backend="pyav")
    monkeypatch.setattr(decord_backend, "read_frames", failing)
    np.testing.assert_array_equal(decode(coloured(), [5], exact=True), expected)
    with pytest.raises(SampleError, match="decord: no"):
        decode(coloured(), [5], backend="decord")


@needs_decord
def test_auto_leaves_large_frames_to_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decord is asked")

    monkeypatch.setattr(decord_backend, "read_frames", refuse)
    expected = decode(coloured(), [5], backend="pyav")
    np.testing.assert_array_equal(decode(coloured(), [5], exact=True, size=(720, 1280)), expected)
    with pytest.raises(AssertionError, match="decord is asked"):
        decode(coloured(), [5], exact=True, size=(480, 640))
    with pytest.raises(AssertionError, match="decord is asked"):
        decode(coloured(), [5], backend="decord", size=(720, 1280))


@needs_decord
def test_a_reason_not_to_take_decord_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    avi, odd = coloured(codec="mpeg4", container="avi"), coloured(width=65, codec="mpeg4")
    with caplog.at_level(logging.INFO, "jepa"):
        for _ in range(2):
            module.announce("auto")
            decode(coloured(), [0])
            decode(avi, [0])
            decode(odd, [0])
    assert [message.partition(" (")[0] for message in caplog.messages] == [
        f"decoder: decord {backends()['decord']} for files in which its frames are exact and of at most "
        f"640x480 pixels, PyAV {av.__version__} for the others",
        "decoder: PyAV for some files, because of container avi",
        "decoder: PyAV for some files, because of an odd height or width",
    ]


def test_without_decord_pyav_reads_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decord_backend, "module", lambda: None)
    with caplog.at_level(logging.INFO, "jepa"):
        module.announce("auto")
        assert decode(coloured(), [0], exact=True).shape == (1, 48, 64, 3)
    assert "decord is not installed" in caplog.text
    with pytest.raises(ConfigError, match="the backend decord is not installed"):
        decode(coloured(), [0], backend="decord")


@needs_decord
@pytest.mark.parametrize("space", [1, 5, 6, 9])
def test_colours_of_every_colour_space_are_the_same(space: int) -> None:
    video = coloured(space=space)
    np.testing.assert_array_equal(decode(video, [7], backend="decord"), decode(video, [7], backend="pyav"))


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (49, 65)])
def test_decoders_do_not_agree_on_the_colours_of_odd_sizes(height: int, width: int) -> None:
    video = coloured(height, width, codec="libvpx", container="webm", deadline="realtime", **{"cpu-used": "8"})
    info = probe(video)
    assert (info.height, info.width, info.exact) == (height, width, False)
    with pytest.raises((DataError, ConfigError), match=r"odd height or width|not installed"):
        decode(video, [0], backend="decord")
    auto = decode(video, [5])
    np.testing.assert_array_equal(auto, decode(video, [5], backend="pyav"))
    if backends()["torchcodec"]:
        np.testing.assert_array_equal(auto, decode(video, [5], backend="torchcodec"))


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("libx264", "mp4", {"x264-params": "repeat-headers=1"}),
        ("libx265", "mp4", {"x265-params": "repeat-headers=1:open-gop=0:log-level=none"}),
    ],
)
def test_a_video_whose_frames_change_their_size_is_refused(codec: str, container: str, options: dict[str, str]) -> None:
    small = coloured(codec=codec, container=container, **options)
    large = coloured(80, 96, codec=codec, container=container, **options)
    assert inexact(scan(small)) is None, "the same headers again are no change"
    video = joined(small, large, container)
    assert inexact(scan(video)) == "frames that change their size"
    assert decode(video, [3]).shape == (1, 48, 64, 3)
    with pytest.raises(DataError, match="the frame size changes inside the video"):
        decode(video, [3, 40])


def test_torchcodec_is_asked_for_by_name_and_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(torchcodec_backend.importlib, "import_module", missing)
    torchcodec_backend.decoder.cache_clear()
    with pytest.raises(ConfigError, match=r"torchcodec is not installed: pip install 'jepa-video\[torchcodec\]'"):
        decode(coloured(), [0], backend="torchcodec")
    assert backends()["torchcodec"] is None

    def broken(name: str) -> Any:
        raise RuntimeError("Could not load libtorchcodec.\nLikely causes: ...")

    monkeypatch.setattr(torchcodec_backend.importlib, "import_module", broken)
    with pytest.raises(ConfigError, match=r"cannot be loaded \(Could not load libtorchcodec\.\): it needs the FFmpeg"):
        decode(coloured(), [0], backend="torchcodec")
    torchcodec_backend.decoder.cache_clear()


class StandIn:
    """A decoder with torchcodec's interface whose frame i is filled with i, and whose times can be wrong."""

    late = 0.0
    extra = 0

    def __init__(self, data: bytes, **options: object) -> None:
        assert options == {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "device": "cpu", "seek_mode": "exact"}
        self.count = probe(data).frames + self.extra

    def __len__(self) -> int:
        return self.count

    def get_frames_at(self, indices: list[int]) -> Any:
        import torch

        pixels = torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 48, 64, 3).contiguous()
        seconds = torch.tensor(indices, dtype=torch.float64) / 25 + self.late
        return type("Batch", (), {"data": pixels, "pts_seconds": seconds})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    kind = type("Kind", (StandIn,), {})
    monkeypatch.setattr(torchcodec_backend, "decoder", lambda: kind)
    return kind


def test_what_torchcodec_returns_is_checked(stand_in: type[StandIn]) -> None:
    video = coloured()
    clip = decode(video, [4, 1, 4], backend="torchcodec", short_side=24)
    assert clip.shape == (3, 24, 32, 3)
    assert clip[:, 0, 0, 0].tolist() == [4, 1, 4]
    stand_in.late = 0.04
    with pytest.raises(SampleError, match=r"torchcodec returns another frame than number 4 \(shown at 0\.200 s\)"):
        decode(video, [4, 1], backend="torchcodec")
    stand_in.late, stand_in.extra = 0.0, 3
    with pytest.raises(SampleError, match="torchcodec counts 27 frames, the file holds 24"):
        decode(video, [4], backend="torchcodec")


def test_torchcodec_is_not_given_what_it_would_get_wrong(stand_in: type[StandIn]) -> None:
    with pytest.raises(DataError, match=r"torchcodec cannot be trusted with it \(timestamps that are missing"):
        decode(coloured(codec="libx264", container="avi"), [0], backend="torchcodec")


@needs_torchcodec
def test_torchcodec_names_what_it_cannot_read() -> None:
    video = bytearray(coloured())
    with pytest.raises(SampleError, match=r"torchcodec: \w"):
        torchcodec_backend.read_frames(bytes(video[: len(video) // 3]), [0], None, None, "clip")


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("intra-refresh=1:keyint=15:bframes=0", "keyframes that need the frames before them"),
        ("tff=1:keyint=15", "interlaced frames"),
        ("keyint=15", None),
    ],
)
def test_h264_of_which_decord_gives_other_frames_in_silence(container: str, how: str, why: str | None) -> None:
    still = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    moving = np.stack([np.roll(still, 3 * number, axis=1) for number in range(60)])
    video = encoded(moving, container=container, **{"x264-params": how})
    assert len(scan(video).keys) == 4, "the container calls them keyframes"
    assert inexact(scan(video)) == why
    assert probe(video).exact is (why is None)
    expected = np.stack([upright(frame) for frame in iterate(video)])
    for index in (17, 33, 59):
        found = decode(video, [index])[0].astype(int)
        assert np.abs(found - expected[index]).max() <= 1, "each by itself is what a decode from the start gives"
