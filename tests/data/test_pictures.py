"""Pictures as videos of one frame: every kind and mode, upright, alone, in folders, packed, and in training batches."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from jepa.cli import main
from jepa.data.decode import decode, probe
from jepa.data.folder import FolderSource
from jepa.data.source import open_source
from jepa.errors import DataError, SampleError

HEIGHT, WIDTH = 40, 60


def scene() -> np.ndarray:
    """Smooth colours with a bright corner at the top left."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    colours = np.stack([rows * 4, columns * 3, 200 - rows * 2], axis=2).astype(np.uint8)
    colours[:8, :8] = 255
    return colours


def saved(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = PIL.Image.fromarray(scene())


@pytest.mark.parametrize(
    ("content", "codec", "bound"),
    [
        (saved(RGB, "PNG"), "png", 0),
        (saved(RGB, "BMP"), "bmp", 0),
        (saved(RGB, "WEBP", lossless=True), "webp", 0),
        (saved(RGB, "JPEG", quality=98, subsampling=0), "jpeg", 12),
        (saved(RGB, "JPEG", quality=98, subsampling=0, progressive=True), "jpeg", 12),
        (saved(RGB.convert("CMYK"), "JPEG", quality=98), "jpeg", 12),
        (saved(RGB, "MPO", save_all=True, append_images=[RGB], quality=98, subsampling=0), "jpeg", 12),
        (saved(RGB.convert("RGBA"), "PNG"), "png", 0),
        (saved(RGB.quantize(256, dither=PIL.Image.Dither.NONE), "PNG"), "png", 24),
    ],
)
def test_every_kind_becomes_rgb(content: bytes, codec: str, bound: int) -> None:
    info = probe(content)
    assert (info.codec, info.frames, info.height, info.width) == (codec, 1, HEIGHT, WIDTH)
    assert info.extension == {"jpeg": "jpg"}.get(codec, codec)
    clip = decode(content, [0, 0, 0])
    assert clip.shape == (3, HEIGHT, WIDTH, 3)
    assert clip.dtype == np.uint8
    assert np.abs(clip.astype(int) - scene()).max() <= bound


def test_grey_in_one_eight_and_sixteen_bits() -> None:
    grey = scene()[:, :, 1]
    for image in (PIL.Image.fromarray(grey), PIL.Image.fromarray(grey.astype(np.uint16) * 257)):
        np.testing.assert_array_equal(decode(saved(image, "PNG"), [0])[0], np.repeat(grey[:, :, None], 3, axis=2))
    black_and_white = decode(saved(PIL.Image.fromarray(grey > 90), "PNG"), [0])[0]
    np.testing.assert_array_equal(black_and_white[:, :, 0], np.where(grey > 90, 255, 0))


def test_what_is_transparent_keeps_its_colour() -> None:
    faded = np.dstack([scene(), np.full((HEIGHT, WIDTH), 7, np.uint8)])
    np.testing.assert_array_equal(decode(saved(PIL.Image.fromarray(faded), "PNG"), [0])[0], scene())


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: np.rot90(seen, 2),
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: np.rot90(seen, 2).transpose(1, 0, 2),
    8: lambda seen: np.rot90(seen, -1),
    9: lambda seen: seen,
}
"""EXIF orientation -> how the sensor stores what is seen (0th row and column of the tables in the EXIF standard)."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(UPRIGHT[orientation](scene()))
    content = saved(PIL.Image.fromarray(stored), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(content, [0])[0], scene())
    assert (probe(content).height, probe(content).width) == (HEIGHT, WIDTH)


def test_short_side_shrinks() -> None:
    assert decode(saved(RGB, "PNG"), [0], short_side=20).shape == (1, 20, 30, 3)
    assert decode(saved(RGB, "PNG"), [0], short_side=400).shape == (1, HEIGHT, WIDTH, 3)


JPEG = saved(RGB, "JPEG")


@pytest.mark.parametrize(
    ("content", "frames", "reason"),
    [
        (JPEG, [0, 1], r"asked for frames 0\.\.1 of a picture, which has one"),
        (JPEG[:-200], [0], r"no picture that can be read \(image file is truncated"),
        (saved(RGB, "PNG")[:-60], [0], "no picture that can be read"),
        (saved(RGB, "WEBP")[:200], [0], "no picture that can be read"),
        (saved(RGB, "BMP")[:-99], [0], "no picture that can be read"),
        (saved(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)]), [0], "an animated WebP"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(content: bytes, frames: list[int], reason: str) -> None:
    with pytest.raises(SampleError, match=f"^sample 3: {reason}") as caught:
        decode(content, frames, name="sample 3")
    assert "\n" not in str(caught.value)


def test_several_pictures_in_a_file_are_a_video() -> None:
    other = PIL.Image.fromarray(255 - scene())
    stream = b"".join(saved(image, "JPEG", quality=98, subsampling=0) for image in (RGB, other, RGB))
    animated = saved(RGB, "PNG", save_all=True, append_images=[other, RGB])
    for content in (stream, animated):
        assert probe(content).frames == 3
        clip = decode(content, [0, 1, 2]).astype(int)
        assert np.abs(clip - [scene(), 255 - scene(), scene()]).max() <= 12


def test_broken_exif_data_do_not_cost_the_picture() -> None:
    content = saved(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage", quality=98, subsampling=0)
    assert np.abs(decode(content, [0])[0].astype(int) - scene()).max() <= 12


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Six pictures of 40x60 (and one of 80x120) in folders of two classes."""
    folder = tmp_path / "pictures"
    for number, kind in enumerate(("jpg", "png", "webp", "bmp", "JPEG", "png")):
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = RGB if number else RGB.resize((2 * WIDTH, 2 * HEIGHT))
        image.save(path)
    return folder


def test_a_folder_of_pictures_is_a_data_set(picture_folder: Path) -> None:
    source = FolderSource(picture_folder)
    infos = [source.info(index) for index in range(len(source))]
    assert [info.key for info in infos] == [
        "cats/0.jpg", "cats/2.webp", "cats/4.JPEG", "dogs/1.png", "dogs/3.bmp", "dogs/5.png",
    ]  # fmt: skip
    assert {(info.frames, info.fps) for info in infos} == {(1, 1.0)}
    assert infos[0].labels == {"label": "cats"}


def test_pictures_beside_videos_are_left_out(
    picture_folder: Path, video_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (picture_folder / "dogs" / "clip.mp4").symlink_to(video_folder / "clip-00.mp4")
    assert len(FolderSource(picture_folder)) == 1
    assert "6 pictures beside the videos" in caplog.text


def test_folders_of_pictures_can_be_splits(picture_folder: Path) -> None:
    (picture_folder / "cats").rename(picture_folder / "train")
    (picture_folder / "dogs").rename(picture_folder / "test")
    assert len(open_source(picture_folder, "test")) == 3
    (picture_folder / "train" / "film.mp4").touch()  # beside a video, the other folder holds thumbnails
    with pytest.raises(DataError):
        open_source(picture_folder, "test")


def test_packed_pictures_stay_files_and_feed_a_run(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    command = f"pack {picture_folder} --out {shards} --short-side {HEIGHT} --workers 0 --json"
    assert main(command.split()) == 0
    assert json.loads(capsys.readouterr().out)["packed"] == 6
    source = open_source(shards)
    large, *same = [source.info(index) for index in range(6)]
    assert (large.height, large.width) == (HEIGHT, WIDTH)
    assert source.read(0)[:2] == b"\xff\xd8", "made smaller, as a JPEG"
    for index, info in enumerate(same, start=1):
        assert source.read(index) == Path(info.origin).read_bytes()
    options = (
        "--clip.frames 4 --clip.size 32 --clip.short repeat --loader.batch_size 4 --loader.workers 0 --max-steps 2"
    )
    run = f"pretrain --config demo --data {shards} --out {tmp_path / 'run'} --loader.cache_gb 0 {options}"
    assert main(run.split()) == 0
