"""Checks in processes of their own: imported by the scripts that `conftest.py` starts."""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(namespace: Mapping[str, Any], *arguments: Any) -> None:
    """Call the functions whose names begin as the second argument of the script says, write what became of each into
    the folder of the first, and leave the process.

    Nothing is called behind an error, as of several processes the others would wait for this one.
    """
    folder, prefix = Path(sys.argv[1]), sys.argv[2]
    checks = {name: check for name, check in namespace.items() if name.startswith(prefix)}
    results = dict.fromkeys(checks, "not run: an earlier one failed")
    for name, check in checks.items():
        try:
            check(*arguments)
        except Exception:
            results[name] = traceback.format_exc()
            break
        results[name] = ""
    (folder / f"results-{os.environ['RANK']}.json").write_text(json.dumps(results))
    os._exit(0)
