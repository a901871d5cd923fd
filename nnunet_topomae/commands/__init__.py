"""The subcommands of `nnunet-topomae`, one a file, named as the command with underscores.

Each file has, for `nnunet_topomae/cli.py`, which lists them:

    module docstring: the text of `nnunet-topomae COMMAND --help`; its first line stands in the list of commands.
    EXAMPLE: a command that works as typed.
    add_arguments(parser): its options.
    run(options): what it does. OSError, ValueError and RuntimeError carry a message for the user.

`--help` imports all of them: whatever is slow to import (torch, NumPy, nnU-Net) is imported in `run`.
"""
