"""The command `hindscan`: what there is to type, and what a failure looks like.

Commands are registered by name and imported only when called, so that `--help` answers in under 0.3 s. Exit codes: 0 done, 1 failed, 2 used wrongly,
3 a service cannot be reached; the class of the error decides (`errors`). With `--json` a failure is one JSON document too.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError

from hindscan import __version__
from hindscan.errors import HindscanError, ServiceUnavailable, UsageError

__all__ = ["COMMANDS", "build_app", "run_app"]

#: name: (module under `hindscan.cli`, function, one line of help).
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("samples", "demo", "Sample auction site, broker, trigger, fan-out, result: one command."),
    "init": ("declared", "init", "Make a new project that runs."),
    "jobs": ("declared", "jobs", "Show the declared jobs, or one job's parameters."),
    "triggers": ("declared", "triggers", "Show the declared triggers."),
    "histories": ("declared", "histories", "Show the declared histories."),
    "check": ("work", "check", "Run a job cut in 1, 2 and 7 and compare the results."),
    "leaktest": ("leaktest", "leaktest", "Poison all history from a time on; nothing of a run as of it may change."),
    "plan": ("work", "plan", "Show what would run: slices, rows, bytes, reuse, cost."),
    "run": ("work", "run", "Run a job and wait for its result."),
    "runs": ("history", "runs", "List runs."),
    "show": ("history", "show", "Show one run: states, slices, result."),
    "cancel": ("history", "cancel", "Stop a run."),
    "retry": ("history", "retry", "Try the slices again that failed or are missing."),
    "rerun": ("rerun", "rerun", "Run a run again, with the same or edited parameters, as a new run."),
    "extend": ("rerun", "extend", "Give a simulation more draws; only what is new is computed."),
    "result": ("history", "result", "Print or save the result of a run."),
    "serve": ("service", "serve", "Run the dispatcher and the HTTP API."),
    "emit": ("service", "emit", "Send a CloudEvent by HTTP or to a topic."),
    "events": ("service", "events", "Show received events, what matched and why not."),
    "redrive": ("redrive", "redrive", "Decide about quarantined events once more, after a fix."),
    "forget": ("forget", "forget", "Delete a subject's event bodies, and the partials and results of their runs."),
    "replay": ("past", "replay", "Put past events through a trigger again, or count what that would do."),
    "audit": ("past", "audit", "Find events of a trigger without a run, or with two; submit what is missing."),
    "outbox": ("outbox", "outbox", "Show what events of runs are not sent, and why; send them again."),
    "match": ("service", "match", "Try a filter on the events of a file or topic."),
    "snapshot": ("exploring", "snapshot", "Pin a history and print what was pinned."),
    "archive": ("archive", "archive", "Write what is new in a topic to its archive."),
    "generate": ("samples", "generate", "Write sample history of any size, seeded."),
    "doctor": ("service", "doctor", "Check broker, store, artefacts, workers, versions; say what to do."),
}


def build_app() -> App:
    """Build the command tree; imports no command."""
    app = App(
        name="hindscan",
        help="An event pins history, a function fans out over it, one reproducible result is published.",
        version=__version__,
        help_format="plaintext",
        result_action="return_value",
    )
    for name, (module, function, text) in COMMANDS.items():
        app.command(f"hindscan.cli.{module}:{function}", name=name, help=text)
    return app


def run_app(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        What was typed after ``hindscan``. Default: the process's.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    app = build_app()
    try:
        code = app(typed, exit_on_error=False, print_error=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CycloptsError as error:
        return _failed(_misused(app, error), typed)
    except HindscanError as error:
        return _failed(error, typed)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`hindscan runs | head`): nothing is wrong here, and Python must not complain at exit.
        sys.stdout = None
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        if error.filename is None:
            sys.stdout = None  # it may be our own output; nothing more goes there, no document either
        return _failed(
            ServiceUnavailable(
                f"Writing {error.filename or 'what is printed'}: {error.strerror}. Make room, and do it again."
            ),
            (),
        )
    return code if isinstance(code, int) else 0


def _failed(error: HindscanError, typed: Sequence[str]) -> int:
    from hindscan.cli.output import print_error

    print_error(error, as_json="--json" in typed)
    return error.exit_code


def _misused(app: App, error: CycloptsError) -> UsageError:
    """Say what the parser found wrong as every other command's error is said: in one line, with what the command needs."""
    chain = error.command_chain or ()
    command = " ".join(("hindscan", *chain))
    found = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.argument.required:
        needed = [one.name for one in app[chain[0]].assemble_argument_collection() if one.required]
        found = f"it needs {' and '.join(needed)}; {error.argument.name} is not given."
    return UsageError(f"Using `{command}`: {found} `{command} --help` says what there is to give.")
