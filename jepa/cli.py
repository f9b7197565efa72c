"""The command `jepa VERB ...`.

A verb is a module in `jepa.commands` with a frozen dataclass `Config` and a function `run(config) -> int`.
Only the module of the verb asked for is imported, and the table below is plain text, so `jepa --help` answers
at once and without torch. Options are parsed by jsonargparse from the fields of `Config`; `jepa.config` checks the
YAML files and lays everything over the defaults: defaults < YAML files in order < command line.

Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 data, 4 diverged, 75 a training stopped with its state saved
and to be started again, 130 Ctrl-C, 143 SIGTERM. What a user can cause is one line on stderr, `jepa VERB: error: ...`;
JEPA_DEBUG=1 adds the traceback.
"""

import contextlib
import difflib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any, NoReturn

from jepa.errors import ConfigError, JepaError
from jepa.version import __version__

VERBS = {
    "demo": "Run the whole pipeline on a synthetic world: data, pretraining, probes, page",
    "doctor": "Versions, devices, decoders, disk, speed; what is missing and which extra brings it",
    "synth": "Simulate and render a synthetic physics data set as shards of real video files",
    "pack": "Turn videos into shards: small, quick to decode, checked",
    "index": "Make webdataset tars of others usable as they are: an index beside each, and a manifest",
    "lint": "Find damage in shards: cut, overwritten, changed, duplicate, missing, undecodable",
    "inspect": "Show what a data set holds: samples, histograms, a contact sheet",
    "order": "Print which clips a run consumes, from any position, without decoding",
    "pretrain": "Pretrain an encoder on shards or a folder of videos",
    "submit": "Submit a pretraining run to Slurm: script, snapshot of the code, requeueing",
    "status": "Tell how a run stands: step, rate, last checkpoint, starts, health",
    "probe": "Probe a frozen encoder: linear, attentive and nearest-neighbour accuracy, beside baselines",
    "extract": "Write the features of a frozen encoder",
    "convert": "Convert weights between this package, HuggingFace and the official files",
    "report": "Make one HTML page of one or more run folders",
    "bench": "Measure the loader beside bare decoders and the official loader, or a manifest of ten million samples",
}

HELP = """\
usage: jepa VERB [OPTIONS]

Self-supervised video representation learning with joint-embedding prediction (V-JEPA).

verbs:
{verbs}

`jepa VERB --help` explains a verb, with an example and the defaults of its options.
Every verb takes --config PATH_OR_NAME (YAML, repeatable, later ones win), --print-config, and any key of its
configuration as an option, e.g. --max-steps 100 or --model.size tiny.

example:
  jepa synth --out data/physics --clips 800
  jepa pretrain --config demo-reconstruction --data data/physics --out runs/first
  jepa probe --encoder runs/first --data data/physics --out runs/first
  jepa report runs/first

exit codes: 0 done, 1 failure, 2 usage or configuration, 3 data, 4 diverged, 75 training stopped and saved, start again,
  130 Ctrl-C, 143 SIGTERM
environment: JEPA_DEBUG=1 shows tracebacks, JEPA_CACHE sets the cache folder, NO_COLOR=1 turns colours off
"""


class _Terminated(BaseException):
    """SIGTERM arrived and the verb did not handle it itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. With `argv=None` the arguments of the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = f"jepa {arguments[0]}" if arguments and arguments[0] in VERBS else "jepa"
    try:
        with _sigterm_raises():
            code = _dispatch(arguments)
            sys.stdout.flush()
            return code
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt:
        return _fail(name, "interrupted", 130)
    except _Terminated:
        return _fail(name, "terminated", 143)
    except JepaError as error:
        return _fail(name, str(error) if error.exit_code > 128 else f"error: {error}", error.exit_code)
    except BrokenPipeError:
        # The reader of stdout went away (`jepa ... | head`): not worth a word, also not at interpreter exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(name, *_explain_os_error(error))
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(name, f"error: out of memory: {_first_line(error)} Try a smaller batch or model.", 1)
        return _fail(name, _internal(error), 1)


def _dispatch(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else None
    if verb in (None, "-h", "--help", "help"):
        width = max(map(len, VERBS))
        text = HELP.format(verbs="\n".join(f"  {verb:{width}}  {line}" for verb, line in VERBS.items()))
        print(text, end="", file=sys.stdout if verb else sys.stderr)
        return 0 if verb else 2
    if verb in ("-V", "--version"):
        print(f"jepa {__version__}")
        return 0
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, 1, 0.4)
        hint = f"did you mean '{close[0]}'?" if close else f"the verbs are {', '.join(VERBS)}"
        raise ConfigError(f"unknown verb '{verb}'; {hint}")

    from jepa.arguments import parse
    from jepa.logs import configured

    with configured():
        command = load_command(verb)
        config = parse(verb, command, arguments[1:])
        return 0 if config is None else int(command.run(config))


def load_command(verb: str) -> Any:
    """The module of a verb."""
    command: ModuleType = importlib.import_module(f"jepa.commands.{verb}")
    return command


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM unwinds the stack like Ctrl-C does, so that temporary files go; verbs may override it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != owner:  # a forked worker inherits the handler, and must simply die
            os._exit(143)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(name: str, message: str, code: int) -> int:
    """One line on stderr."""
    if os.environ.get("JEPA_DEBUG"):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"{name}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _explain_os_error(error: OSError) -> tuple[str, int]:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: disk full{where}: free some space or write elsewhere", ConfigError.exit_code
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR) and error.filename:
        return f"error: {error.strerror}{where}", ConfigError.exit_code
    return _internal(error), 1


def _internal(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename}:{last[0].lineno})" if last else ""
    return f"internal error: {type(error).__name__}: {_first_line(error)}{where}; JEPA_DEBUG=1 shows the traceback"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
