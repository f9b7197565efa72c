"""Mask configurations as users write them: YAML, command line, help, mistakes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jepa import config
from jepa.cli import main
from jepa.config import convert, load, to_yaml
from jepa.errors import ConfigError
from jepa.masks.build import MasksConfig
from jepa.masks.config import MaskConfig
from jepa.training.config import PretrainConfig

WRITTEN = """
data: shards
out: run
masks:
  kinds:
    - {blocks: 2, spatial: [0.5, 0.5], temporal: [0.5, 0.5]}
    - {kind: tube, ratio: 0.8}
    - kind: causal
      context_time: [0.25, 0.5]
    - {kind: ijepa}
"""


def test_kinds_are_read_from_yaml_and_an_item_without_one_is_multiblock(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(WRITTEN)
    read = load(PretrainConfig, tmp_path / "run.yaml")
    assert read.masks.kinds == (
        MaskConfig(blocks=2, spatial=(0.5, 0.5), temporal=(0.5, 0.5)),
        MaskConfig(kind="tube", ratio=0.8),
        MaskConfig(kind="causal", context_time=(0.25, 0.5)),
        MaskConfig(kind="ijepa"),
    )
    (tmp_path / "again.yaml").write_text(to_yaml(read))
    assert load(PretrainConfig, tmp_path / "again.yaml") == read


def test_what_another_kind_reads_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(WRITTEN.replace("{kind: ijepa}", "{kind: ijepa, temporal: [0.5, 0.5]}"))
    with pytest.raises(ConfigError) as error:
        load(PretrainConfig, tmp_path / "run.yaml")
    where, what = str(error.value).split(": masks.kinds: ")
    assert where == f"{tmp_path / 'run.yaml'}:10"
    assert what == "temporal is not read by kind ijepa, which reads blocks, spatial, aspect, context_block, min_keep"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "tubes"}, "one of multiblock, tube, causal, ijepa"),
        ({"kind": "tube", "ratio": 1.0}, "ratio is 1.0"),
        ({"kind": "causal", "context_time": [0.0, 0.5]}, "context_time range"),
        ({"kind": "causal", "target_time": [0.5, 0.5]}, "from < to"),
        ({"kind": "ijepa", "context_block": [0.9, 1.1]}, "context_block range"),
        ({"kind": "ijepa", "min_keep": -1}, "min_keep is -1"),
        ({"max_keep": 0}, "max_keep is 0"),
        ({"max_keep": 4, "complement": "context"}, "no effect"),
        ({"aspect": [2.0, 1.0]}, "0 < low <= high$"),
        ({"min_keep": 4}, "min_keep is not read by kind multiblock"),
    ],
)
def test_wrong_kinds_are_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words) as error:
        convert({"kinds": [arguments]}, MasksConfig)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("complement", ["target", "context"])
def test_a_share_that_the_complement_sets_is_refused(complement: str, inverse: bool) -> None:
    kind = convert({"complement": complement, "inverse": inverse}, MaskConfig)
    derived = complement if not inverse else {"target": "context", "context": "target"}[complement]
    for name in ("target", "context"):
        shares = {f"{name}_share": 0.3}
        if name == derived:
            with pytest.raises(ConfigError, match=f"masks.{name}_share is given"):
                MasksConfig(kinds=(kind,), **shares)  # type: ignore[arg-type]
        else:
            MasksConfig(kinds=(kind,), **shares)  # type: ignore[arg-type]


def test_masks_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    causal = MasksConfig(kinds=(MaskConfig(kind="causal"),))
    wide = MasksConfig(kinds=(MaskConfig(kind="tube"),), context_share=0.5)
    arguments: dict[str, Any] = {"data": tmp_path / "shards", "out": tmp_path / "run"}
    assert PretrainConfig(**arguments, masks=causal).masks == causal
    with pytest.raises(ConfigError, match=r"context_share is 0\.5, .* have only 0\.0969 of the tokens: lower it"):
        PretrainConfig(**arguments, masks=wide)
    images = config.make_layer(
        PretrainConfig, {**arguments, "images": {"data": "pictures", "masks": {"kinds": [{"kind": "causal"}]}}}, "test"
    )
    with pytest.raises(ConfigError, match="causal mask needs at least 2 steps"):
        config.resolve(PretrainConfig, [images]).build()


def test_the_help_tells_the_keys_of_a_mask_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    _, items = text.split("items of --masks.kinds, --images.masks.kinds: ")
    for field in fields(MaskConfig):
        assert f" {field.name} " in items
    assert "ratio Of tube: share of the patches that is predicted. (float; default: 0.9)" in items
    # The defaults of the lists show only what they say.
    assert 'default: [{"blocks": 8, "spatial": [0.15, 0.15]}, {"blocks": 2, "spatial": [0.7, 0.7]}])' in text
