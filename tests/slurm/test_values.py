"""Times, signals and lists of tasks, as sbatch's manual has them; and words that stay where they are put."""

import pytest

from jepa.errors import ConfigError
from jepa.slurm.values import array_tasks, signal_lead, time_limit, word


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30 * 60),
        ("4:00", 4 * 60),  # minutes and seconds, not hours
        ("4:01", 5 * 60),  # "second values are rounded up to the next minute"
        ("24:00:00", 86400),
        ("100:30:00", 100 * 3600 + 1800),
        ("1-00", 86400),
        ("1-2:30", 86400 + 2 * 3600 + 1800),
        ("2-1:01:01", 2 * 86400 + 3600 + 2 * 60),
        ("0", None),  # "a time limit of zero requests that no time limit be imposed"
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(text: str, seconds: int | None) -> None:
    assert time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "1-", "-1", "1 0", "10\n", "1-2-3", "1.5", "٣"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="time is"):
        time_limit(text)


def test_a_signal_comes_so_long_before_the_end() -> None:
    assert signal_lead("USR1@120") == 120
    assert signal_lead("SIGUSR2@5") == 5
    assert signal_lead("TERM@65535") == 65535


@pytest.mark.parametrize("text", ["USR1", "B:USR1@60", "KILL@60", "10@60", "USR1@-1", "USR1@60\n", "USR1@", "HUP@9"])
def test_signals_that_do_not_save_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="signal is"):
        signal_lead(text)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-6:2,9%2", [0, 2, 4, 6, 9]), ("7,3,7", [3, 7]), ("1-5%1", [1, 2, 3, 4, 5])],
)
def test_the_tasks_of_an_array(text: str, tasks: list[int]) -> None:
    assert array_tasks(text) == tasks


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-", "0-4%0", "1,,2", "0-99999", "0-4;reboot", "1\n"])
def test_other_arrays_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="array is"):
        array_tasks(text)


NASTY = ["", "a b", "a\nb", "a;b", "$(b)", "`b`", "a'b", 'a"b', "a\\b", "a#b", "a>b", "é", "a\0b"]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("features", [False, True])
def test_a_word_cannot_leave_its_place(text: str, features: bool) -> None:
    with pytest.raises(ConfigError, match="partition is"):
        word("partition", text, features=features)


def test_operators_of_features_are_for_features_only() -> None:
    assert word("constraint", "[a100|h100]&nvlink*4", features=True) == "[a100|h100]&nvlink*4"
    with pytest.raises(ConfigError):
        word("partition", "a|b")
    assert word("partition", "gpu,long-2.a_b") == "gpu,long-2.a_b"
