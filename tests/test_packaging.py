"""The wheel: one top-level name, real folders instead of links, all data files, importable on its own."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("data", "eval", "configs", "slurm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that the checkout gets no build folder, and stale ones do not get into the wheel."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("jepa", *LINKED):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    result = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"jepa", "jepa_video-0.1.0.dist-info"}


def test_every_file_of_the_package_is_inside_once(wheel: zipfile.ZipFile) -> None:
    inside = [name for name in wheel.namelist() if name.startswith("jepa/")]
    expected = {"jepa/py.typed"}
    for folder in ("jepa", *LINKED):
        prefix = "" if folder == "jepa" else "jepa/"
        for suffix in ("*.py", "*.yaml", "*.sbatch"):
            # rglob does not follow the links, so each file is met once, under its real folder
            expected |= {prefix + path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(suffix)}
    shipped = ROOT / "jepa/checkpoints/shipped"
    expected |= {path.relative_to(ROOT).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert sorted(inside) == sorted(set(inside))
    assert expected - set(inside) == set()


def test_metadata_names_licence_python_and_command(wheel: zipfile.ZipFile) -> None:
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "jepa-video"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"test", "dev"} <= set(metadata.get_all("Provides-Extra") or [])
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in wheel.namelist())
    assert "jepa = jepa.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_unpacked_wheel_works_in_another_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    for name in LINKED:
        assert (site / "jepa" / name).is_dir()
        assert not (site / "jepa" / name).is_symlink()
    code = (
        "import jepa, jepa.data.order, jepa.eval, jepa.configs, jepa.slurm, sys\n"
        "from jepa.config import shipped_configs\n"
        "print(jepa.__file__, jepa.data.order.__file__, *shipped_configs().values())\n"
        "from jepa.cli import main; sys.exit(main(['--version']))\n"
    )
    # -S would hide numpy too; PYTHONPATH comes before an editable install of this checkout.
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    places, version = result.stdout.splitlines()
    assert version == "jepa 0.1.0"
    assert all(place.startswith(f"{site}/jepa/") for place in places.split())
    assert f"{site}/jepa/configs/pretrain/demo.yaml" in places
