import sys

import pytest

from jepa.bench import official


def test_without_the_package_the_reason_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vjepa2", None)
    monkeypatch.setitem(sys.modules, "vjepa2.datasets.video_dataset", None)
    reason = official.missing()
    assert reason is not None
    assert "\n" not in reason
    assert reason.endswith("(`pip install 'jepa-video[bench]'`)")
