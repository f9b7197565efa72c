"""What training, evaluation and the decoded copy do about videos that decoders fail, hang or crash on."""

import ctypes
import faulthandler
import json
import logging
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa.cli import main
from jepa.data import frames as frames_file
from jepa.data.bad_samples import BadSamples, set_aside
from jepa.data.decode import decode
from jepa.data.evaluation_batches import evaluation_batches
from jepa.data.frames import Frames
from jepa.data.loader_config import LoaderConfig
from jepa.data.order import Order
from jepa.data.source import Source, open_source
from jepa.data.stream import train_loader
from jepa.data.transforms import AugmentConfig
from jepa.data.windows import WindowConfig
from jepa.data.workers import Loader, Loss
from jepa.errors import DataError, SampleError, WorkerLost
from jepa.masks.build import MaskSampler, MasksConfig
from jepa.tokens import TokenGrid
from jepa.types import ClipBatch

GRID = TokenGrid(2, 4, 4)
WINDOW = WindowConfig(frames=4, stride=2)


@pytest.fixture(scope="module")
def source(video_folder: Path) -> Source:
    return open_source(video_folder)


def hang() -> None:
    """As decord does it: native code that never comes back and does not let go of the lock."""
    ctypes.PyDLL(None).pause()


def crash() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def damaged() -> None:
    raise SampleError("it is damaged")


REASONS = {
    hang: "the decoder did not come back within 0.5 s",
    crash: "the decoder crashed on it",
    damaged: "it is damaged",
}


def failing(what: Callable[[], None], keys: set[str]) -> Callable[..., np.ndarray]:
    """A decoder that fails on these videos. Workers get it by being forked."""

    def decoder(video: bytes, ids: Any, *, name: str = "", **options: Any) -> np.ndarray:
        if name in keys:
            what()
        return decode(video, ids, name=name, **options)

    return decoder


def batches(source: Source, cache: Path, last_step: int = 12, **changes: Any) -> Loader[ClipBatch]:
    config = LoaderConfig(
        batch_size=4, workers=2, cache=cache, cache_gb=0, start_method="fork", deadline=0.5, max_bad=0.2
    )
    return train_loader(
        source, window=WINDOW, augment=AugmentConfig(size=32), loader=replace(config, **changes), seed=7,
        first_step=0, last_step=last_step, grid=GRID, draw_masks=MaskSampler(MasksConfig(), GRID, seed=7),
    )  # fmt: skip


def quarantined(cache: Path) -> dict[str, str]:
    """Key -> reason in the file."""
    (file,) = (cache / "quarantine").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(Path(line["place"]).name == line["key"] for line in lines)
    return {line["key"]: line["reason"] for line in lines}


@pytest.mark.parametrize("what", [hang, crash, damaged])
def test_training_goes_on_with_spares_and_later_runs_know(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: Any
) -> None:
    bad = {"clip-03.mp4", "clip-08.mp4"}
    monkeypatch.setattr(frames_file, "decode", failing(what, bad))
    first = list(batches(source, tmp_path))
    assert quarantined(tmp_path) == dict.fromkeys(bad, REASONS[what])
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2
    where = "where it cannot be decoded" if what is damaged else "from now on"
    assert all(f"is left out {where}: {REASONS[what]}" in line for line in warned)

    # A second run asks no decoder for them, and has the same clips; so has one that had never heard of them.
    caplog.clear()
    monkeypatch.setattr(frames_file, "decode", failing(lambda: os._exit(9), bad))
    (tmp_path / "other").mkdir()
    second, anew = list(batches(source, tmp_path)), None
    (told,) = (record.getMessage() for record in caplog.records)
    assert "of 2 of 12 samples something is known to be bad and left out, by" in told
    if what is damaged:
        monkeypatch.setattr(frames_file, "decode", failing(what, bad))
        anew = list(batches(source, tmp_path / "other", workers=0))
    for other in filter(None, (second, anew)):
        for ours, theirs in zip(first, other, strict=True):
            assert ours.keys == theirs.keys
            assert torch.equal(ours.clips, theirs.clips)

    # The rule, by hand.
    order, keys = Order(12, 7), [source.info(index).key for index in range(12)]
    for position, key in enumerate(key for batch in first for key in batch.keys):
        expected, attempt = keys[order.sample(position)[1]], 0
        while expected in bad:
            expected, attempt = keys[order.spare(position, attempt)], attempt + 1
        assert key == expected


@pytest.mark.parametrize("clips_per_video", [1, 2])
def test_what_is_damaged_in_a_part_gives_the_clips_of_the_rest_whoever_knows_of_it(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips_per_video: int
) -> None:
    """Whether a clip is replaced depends on its frames alone: not on what was met before, nor on the decoded copy."""

    def half(video: bytes, ids: Any, *, name: str = "", **options: Any) -> np.ndarray:
        if name in {"clip-03.mp4", "clip-08.mp4"} and max(ids) >= 9:
            damaged()
        return decode(video, ids, name=name, **options)

    monkeypatch.setattr(frames_file, "decode", half)
    options: Any = {"workers": 0, "clips_per_video": clips_per_video}
    first = list(batches(source, tmp_path, **options))
    for other in (
        batches(source, tmp_path, **options),
        batches(source, tmp_path / "other", **{**options, "workers": 2}),
        batches(source, tmp_path / "third", **options, cache_gb=1),
    ):
        for ours, theirs in zip(first, other, strict=True):
            assert (ours.keys, ours.windows) == (theirs.keys, theirs.windows)
            assert torch.equal(ours.clips, theirs.clips)
    seen = Counter(key for batch in first for key in batch.keys)
    assert seen["clip-03.mp4"]
    assert seen["clip-08.mp4"]


def test_a_hanging_decoder_holds_the_run_up_by_little_more_than_the_deadline(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(hang, {"clip-05.mp4"}))
    arrivals = [time.monotonic()]
    arrivals += [time.monotonic() for _ in batches(source, tmp_path, deadline=2)]
    longest = max(np.diff(arrivals))
    print(f"deadline 2 s, longest wait for a batch {longest:.2f} s")
    assert 2 <= longest < 30  # generous: other tests run beside this one


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_end_the_run_and_name_the_worst(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(damaged, {f"clip-0{n}.mp4" for n in range(3)}))
    with pytest.raises(
        DataError, match=r"3 of 12 samples cannot be used, more than loader.max_bad 0.2 allows; worst: /"
    ):
        list(batches(source, tmp_path, workers=workers))
    with pytest.raises(DataError, match="3 of 12 samples"):  # a later run does not even begin
        next(iter(batches(source, tmp_path, workers=workers)))


def test_pretrain_ends_with_code_3_when_too_many_hang(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(hang, {f"train-000000{n}" for n in range(3)}))
    words = f"pretrain --config {Path(__file__).parents[1]}/micro.yaml --data {tiny_shards} --out {tmp_path}/run"
    words += f" --loader.workers 1 --loader.start_method fork --loader.cache_gb 0 --loader.cache {tmp_path}/cache"
    assert main([*words.split(), "--loader.deadline", "0.5", "--loader.max_bad", "0.1"]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 24 samples cannot be used, more than loader.max_bad 0.1 allows; worst: " in error
    assert "shard-000000.tar (3)" in error
    assert "the decoder did not come back within 0.5 s" in error


@pytest.mark.parametrize("what", [hang, crash, damaged])
def test_the_decoded_copy_is_made_without_them(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any
) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(what, {"clip-03.mp4"}))
    clips = list(batches(source, tmp_path, cache_gb=1))
    assert quarantined(tmp_path) == {"clip-03.mp4": REASONS[what]}
    on_demand = batches(source, tmp_path, workers=0)
    for ours, theirs in zip(clips, on_demand, strict=True):
        assert torch.equal(ours.clips, theirs.clips)
    known = Frames(source, short_side=40, budget_gb=1, cache=tmp_path, bad=BadSamples(source, tmp_path, 0.2))
    assert known.cached
    whole = rf"clip-03.mp4 in .* cannot be used: {REASONS[what]} \(delete .*jsonl to have"
    with pytest.raises(SampleError, match=f"^{REASONS[what]}$" if what is damaged else whole):
        known.window(3, [0])
    with pytest.raises(SampleError, match=r"clip-03\.mp4 could not be decoded when"):
        Frames(source, short_side=40, budget_gb=1, cache=tmp_path).window(3, [0])


def test_the_copy_is_completed_when_the_quarantine_is_lifted(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Frames:
        return Frames(source, short_side=40, budget_gb=1, cache=tmp_path, bad=BadSamples(source, tmp_path, 0.2))

    with monkeypatch.context() as patch:
        patch.setattr(frames_file, "decode", failing(damaged, {"clip-03.mp4"}))
        frames = made()
    assert frames.bad is not None
    frames.bad.quarantine.path.unlink()
    assert len(made().window(3, [0, 1])) == 2


def test_too_many_end_the_making_of_the_copy(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(damaged, {f"clip-0{n}.mp4" for n in range(9)}))
    with pytest.raises(DataError, match=r"3 of 12 samples .* worst: .*it is damaged"):
        batches(source, tmp_path, cache_gb=1)
    assert [path.name for path in tmp_path.iterdir()] == ["quarantine"]


@pytest.mark.parametrize("what", [hang, crash, damaged])
def test_evaluation_names_the_sample_and_ends(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any
) -> None:
    monkeypatch.setattr(frames_file, "decode", failing(what, {"clip-03.mp4"}))
    loader = LoaderConfig(workers=1, cache=tmp_path, cache_gb=0, start_method="fork", deadline=0.5)
    found = evaluation_batches(source, window=WINDOW, size=32, batch_size=2, loader=loader)
    with pytest.raises(SampleError, match=f"{'' if what is damaged else 'clip-03.mp4.*'}{REASONS[what]}"):
        list(found)


def test_a_crash_that_is_no_decoders_ends_the_run(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.data.stream.augment", lambda *arguments: crash())
    with pytest.raises(WorkerLost, match=r"a worker process crashed, not in a decoder, while it made item [01]"):
        list(batches(source, tmp_path))


def test_decord_that_refuses_a_file_has_found_nothing_bad(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise DataError("decord cannot be trusted with it")

    monkeypatch.setattr(frames_file, "decode", failing(refused, {"clip-03.mp4"}))
    with pytest.raises(DataError, match=r"^decord cannot be trusted with it$") as caught:
        list(batches(source, tmp_path, backend="decord", workers=0))
    assert not isinstance(caught.value, SampleError)
    assert not list(tmp_path.iterdir())


def test_without_a_place_for_the_quarantine_the_run_remembers(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setattr(frames_file, "decode", failing(damaged, {"clip-03.mp4"}))
    loader = batches(source, tmp_path / "cache")
    quarantine = loader.bad[0].quarantine
    assert len(list(loader)) == 12
    assert quarantine.refuge.exists()
    assert not quarantine.kept
    levels = Counter(record.getMessage().startswith("cannot write") for record in caplog.records)
    assert levels == {True: 1, False: 1}
    copy, refuge = pickle.loads(pickle.dumps(quarantine)), quarantine.refuge
    assert copy.knows(3)
    del loader, quarantine
    assert not refuge.parent.exists()


def test_samples_known_from_earlier_runs_do_not_use_up_the_credit(source: Source, tmp_path: Path) -> None:
    class Large:
        name, fingerprint, runs = "large", "f" * 32, (10**6,)

        def __len__(self) -> int:
            return 10**6

        def place(self, index: int) -> str:
            return "a.tar"

        def info(self, index: int) -> Any:
            return source.info(index % 12)

    bad = BadSamples(Large(), tmp_path, 0.01)  # type: ignore[arg-type]
    for index in range(100):
        set_aside({0: bad}, 5, Loss("the decoder crashed on it", (0, index)))
    bad.require_few(0)
    bad.add(100, "and one more")
    with pytest.raises(DataError, match="101 of 1000000"):
        bad.require_few(0)
    bad.require_few(100)
    BadSamples(Large(), tmp_path, 0.01).require_few(0)  # type: ignore[arg-type]


def test_another_copy_of_the_data_set_has_a_quarantine_of_its_own(video_folder: Path, tmp_path: Path) -> None:
    source = open_source(video_folder)
    one = BadSamples(source, tmp_path, 0.5)
    one.add(3, "a scratched disk")
    elsewhere = open_source(video_folder)
    elsewhere.place = lambda index: f"/elsewhere/{index}"  # type: ignore[method-assign]
    assert 3 in BadSamples(source, tmp_path, 0.5)
    assert 3 not in BadSamples(elsewhere, tmp_path, 0.5)


def test_settings() -> None:
    for changes in ({"max_bad": 1.0}, {"max_bad": -0.1}, {"deadline": 0.0}):
        with pytest.raises(DataError.__bases__[1], match=rf"loader\.{next(iter(changes))} is"):
            LoaderConfig(**changes)  # type: ignore[arg-type]


def test_spares_are_spread_over_the_source() -> None:
    order = Order(5, 3)
    drawn = Counter(order.spare(n, attempt) for n in range(2000) for attempt in range(3))
    assert sorted(drawn) == list(range(5))
    assert all(abs(count - 1200) < 150 for count in drawn.values())
    assert partial(order.spare, 9, 1)() == Order(5, 3).spare(9, 1) != Order(5, 4).spare(9, 1)
