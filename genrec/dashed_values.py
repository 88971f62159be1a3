"""Ids that begin with a dash, such as `-abc` after `--history`, where argparse expects an option."""

from __future__ import annotations

import argparse

from genrec.errors import did_you_mean

MARK = "\0"  # before such an id, so that argparse takes it for a value; no argument of a program can hold it


def mark(parser: argparse.ArgumentParser, arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """Return the arguments with a mark before each value of these options that begins with one dash and is no option.

    `-n`, `-n5` and `-n=5` are the option `-n` wherever they stand, if it takes an integer. Exits with 2 for a value that begins with
    two dashes and is no option: it may be a misspelled option. All arguments after `--` are values.
    """
    marked, taking = [], None  # `taking`: the action whose values come next
    actions = {name: action for action in parser._actions for name in action.option_strings}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        name = _option(argument, actions)
        if name is not None:
            taking = actions[name] if name in options and "=" not in argument else None
        elif taking is not None:
            if argument.startswith("--"):
                nearest = did_you_mean(argument, [option for option in actions if option.startswith("--")])
                flag = taking.option_strings[0]
                parser.error(f"there is no option {argument}{nearest or '.'} If it is an id or a text, write {flag}={argument}")
            argument = f"{MARK}{argument}" if argument.startswith("-") else argument
            taking = taking if taking.nargs == "*" else None
        marked.append(argument)
    return marked + ([f"{MARK}{argument}" for argument in arguments[end + 1 :]] if taking else arguments[end:])


def unmark(options: argparse.Namespace) -> None:
    """Remove the marks from the parsed values, in place."""
    for name, value in vars(options).items():
        if isinstance(value, str):
            setattr(options, name, value.removeprefix(MARK))
        elif isinstance(value, list):
            setattr(options, name, [each.removeprefix(MARK) for each in value])


def _option(argument: str, actions: dict[str, argparse.Action]) -> str | None:
    """Return the option that an argument is, or is short for; None for a value."""
    if not argument.startswith("--"):
        name, number = argument[:2], argument[2:].removeprefix("=")
        is_option = name in actions and (argument == name or (actions[name].type is int and number.isdecimal()))
        return name if is_option else None
    text = argument.partition("=")[0]
    return text if text in actions else next((name for name in actions if name.startswith(text)), None)
