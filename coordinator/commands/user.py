"""``onlysum coordinator user``: who may log in to the dashboard.

Guarantees: a password is asked for, or read from a file or standard input, and never an argument.
Leaves to others: how passwords are kept (``coordinator.dashboard.accounts``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands.choices import UserRole
from coordinator.commands.console import Directory, now, opened
from host.console import AsJson, show, show_view
from privacy.errors import LocalError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Users of the dashboard.")
UserName = Annotated[str, typer.Argument(metavar="NAME", help="A user's name.")]


@app.command("add")
def add_user(
    name: UserName,
    *,
    role: Annotated[UserRole, typer.Option("--role", help="An auditor reads and changes nothing.")] = UserRole.OPERATOR,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its first line; - is standard input.")
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Add a user; the password is asked for.

    Example: onlysum coordinator user add anna --role auditor
    """
    from coordinator.dashboard.accounts import new_user
    from coordinator.database import user_rows

    user = new_user(name, user_rows.UserRole(role), _password(password_file), now())
    with opened(config) as coordinator:
        with coordinator.store.begin() as connection:
            user_rows.add_user(connection, user)
        address = coordinator.settings.admin.listen if coordinator.settings.admin else ""
    lines = [f"Added {role.value} {name}.", *([f"Log in at http://{address}"] if address else [])]
    show({"name": name, "role": role.value}, lines, as_json=as_json)


@app.command("list")
def list_users(config: Directory = None, as_json: AsJson = False) -> None:
    """List the users.

    Example: onlysum coordinator user list
    """
    from coordinator.views.users import user_list

    with opened(config) as coordinator:
        show_view(user_list(coordinator), as_json=as_json)


@app.command("remove")
def remove_user(name: UserName, config: Directory = None, as_json: AsJson = False) -> None:
    """Remove a user; where it is logged in it is logged out.

    Example: onlysum coordinator user remove anna
    """
    from coordinator.database import user_rows

    with opened(config) as coordinator, coordinator.store.begin() as connection:
        user_rows.remove_user(connection, name, now())
    show({"name": name, "removed": True}, [f"Removed {name}."], as_json=as_json)


def _password(file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return typed
    if file is None:
        raise LocalError("E-USAGE", "there is no terminal to ask for the password: give --password-file")
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError("E-USAGE", f"the password file cannot be read: {type(error).__name__}") from None
    return text.split("\n", 1)[0].removesuffix("\r")
