"""Do what an action must not do: `block15@…` blocks the event loop for 15 s, `stuck@…` never ends, cancelled or not."""

import asyncio
import time

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Misbehave as the mailbox says; `big2000@…` sets 2,000 bytes of metadata, which some topics do not take."""
    mailbox = (event.user.email or "").partition("@")[0]
    if mailbox.startswith("block"):
        time.sleep(float(mailbox.removeprefix("block")))  # noqa: ASYNC251 - that is what it is for
    elif mailbox.startswith("big"):
        api.user.set_app_metadata("big", "x" * int(mailbox.removeprefix("big")))
    elif mailbox == "stuck":
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
