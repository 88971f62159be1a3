"""The command line: the commands are in `genrec.command_parser`; errors become messages and exit codes here."""

from __future__ import annotations

import os
import sys
import warnings

from genrec import command_parser, completion, threads
from genrec.errors import GenrecError, UsageError
from genrec.storage_errors import explain, out_of_memory
from genrec.terminal_text import LINES, printable


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code (see `genrec.errors`)."""
    threads.configure()
    parser = command_parser.build()
    completion.answer(parser)
    options, flags = command_parser.parse(parser, sys.argv[1:] if arguments is None else arguments)
    if getattr(options, "offline", False):
        os.environ["GENREC_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _print(f"warning: {message}")
            code: int = options.call(options, flags)
        if sys.stdout is not None:  # None if the parent process closed it
            sys.stdout.flush()
        return code
    except GenrecError as error:
        _print(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            return _interrupted()
        from genrec.loading import explain_exit

        _print(explain_exit(error))  # of a plug-in
        return UsageError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError, OSError) as error:
        explained = explain(error) if isinstance(error, OSError) else out_of_memory(error)
        if explained is None:
            raise
        _print(str(explained))
        return explained.exit_code


def _interrupted() -> int:
    """Print how to go on after Ctrl-C and return the exit code."""
    _print("interrupted; run the same command again to resume from the last finished stage or checkpoint")
    return 130


def _print(message: str) -> None:
    """Print a message to standard error. Control characters, as in the error of a library or a plug-in, become spaces."""
    print(f"genrec: {printable(message, LINES)}", file=sys.stderr)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))  # `python -m` puts the current folder first, before the libraries: see `genrec.loading`
    sys.exit(main())
