"""Do what the mailbox says, so that each test chooses what happens to its attempts."""

import os
from pathlib import Path

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Deny, fail, or deny at length; note every run where the test wants that."""
    mailbox = (event.user.email or "").partition("@")[0]
    runs = os.environ.get("TEST_RUNS")
    if runs:
        with Path(runs).open("a") as file:  # noqa: ASYNC230 - a line
            file.write(f"{event.attempt_id}\n")
    if mailbox == "denied":
        api.access.deny("no_such_person", "You are not allowed to register.")
    elif mailbox == "failing":
        raise RuntimeError("do not tell: hunter2")
    elif mailbox.startswith("size"):
        api.access.deny("x" * int(mailbox.removeprefix("size")))
    api.user.set_user_metadata("screen_name", mailbox)
