"""Whether all processes of a run are about to do the same.

Gradients are averaged, weights are not: processes that were started with other options, or that see other data, train
copies that drift apart without a word, and the one of rank 0 is saved. A launcher starts them alike, but a script with
`$SLURM_PROCID` in it, a stale copy of the data on one machine, or two hosts with other versions of a YAML do not.
"""

from jepa import config as configuration
from jepa.config import flat
from jepa.errors import ConfigError, DataError
from jepa.training.config import PretrainConfig
from jepa.training.team import Team, ranks_text

OWN = ("data", "images.data", "online.data", "objective.teacher", "init", "loader.cache", "run.device", "run.threads")
"""Keys that may differ: where things lie on each machine, and what it computes with."""


def require_same(team: Team, config: PretrainConfig, fingerprint: str) -> None:
    """Raises, on all processes alike:

    ConfigError: the configuration of some process is not that of rank 0.
    DataError: the data of some process is not that of rank 0.
    """
    mine = {key: repr(value) for key, value in flat(configuration.to_dict(config)).items() if key not in OWN}
    tables = team.gather((mine, fingerprint))

    def compare() -> None:
        first, data = tables[0]
        for table, _ in tables:
            other = [key for key in first if table.get(key) != first[key]]
            if other:
                ranks = [rank for rank, (its, _) in enumerate(tables) if its != first]
                shown = ", ".join(f"{key} ({table.get(key)}, not {first[key]})" for key in other[:3])
                raise ConfigError(
                    f"{ranks_text(ranks)} of {len(tables)} started with another configuration than rank 0: {shown}; "
                    "start all processes by one command"
                )
        if others := [rank for rank, (_, found) in enumerate(tables) if found != data]:
            raise DataError(
                f"{ranks_text(others)} of {len(tables)}: other data at {config.data} than on rank 0; copy it there anew"
            )

    team.together(compare)
