"""Wait as many seconds as the mailbox says: `wait0.5@…`."""

import asyncio

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Take a while."""
    await asyncio.sleep(float((event.user.email or "").partition("@")[0].removeprefix("wait")))
