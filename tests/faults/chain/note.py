"""Write down every run, and do what the mailbox says."""

import json
import os
import time

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Append one line to the file of side effects; deny, fail or set metadata."""
    effect = {"at_ms": int(time.time() * 1000), "worker": str(os.getpid()), "action": "note", "attempt_id": event.attempt_id}
    file = os.open(os.environ["FAULTS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{json.dumps(effect)}\n".encode())  # one call: a kill does not leave half a line
    os.close(file)
    mailbox = (event.user.email or "").partition("@")[0]
    if mailbox == "denied":
        api.access.deny("no_such_person", "You are not allowed to register.")
    elif mailbox == "failing":
        raise RuntimeError("as told")
    api.user.set_user_metadata("screen_name", mailbox)
    api.user.set_app_metadata("by", os.getpid())
