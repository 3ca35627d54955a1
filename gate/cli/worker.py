"""`gate worker`: take attempts, decide them, answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate.cli.options import WORKER, Flags, takes

if TYPE_CHECKING:
    from pathlib import Path

    from gate.chain.runner import Chain
    from gate.config import Settings
    from gate.worker.worker import Worker


@takes(*WORKER)
def worker(flags: Flags) -> None:
    """Take attempts, run the chain on each, and answer.

    SIGTERM or Ctrl-C finishes what is in flight and leaves; a second one exits at once. SIGHUP loads the chain anew.
    """
    from gate import log
    from gate.cli.running import run

    settings, chain = load_with_chain(flags)
    log.configure(settings.log_level, settings.log_format)
    run(_serve(settings, chain))


def load_chain_of(settings: Settings) -> Chain:
    """Load the chain that the settings name; raise ChainError."""
    from gate.chain.loader import load_chain
    from gate.config import action_secrets

    return load_chain(settings.chain_path, secrets_dir=settings.secrets_dir, environ=action_secrets())


def load_with_chain(flags: Flags) -> tuple[Settings, Chain]:
    """Return settings and chain; raise one ConfigError with what is wrong in both, and in the file of texts."""
    from gate.chain.texts import load_texts
    from gate.config import SettingsError
    from gate.errors import ChainError, ConfigError

    problems: list[str] = []
    try:
        settings = flags.settings()
    except SettingsError as error:
        settings = error.usable
        problems += error.problems

    try:
        load_texts(settings.messages)
    except ConfigError as error:
        problems += error.problems

    try:
        chain = load_chain_of(settings)
    except ChainError as error:
        raise ConfigError([*problems, *error.problems]) from None

    if problems:
        raise ConfigError(problems)

    return settings, chain


@dataclass(frozen=True, slots=True)
class _Starting:
    """What /readyz says before there is a worker."""

    reasons: tuple[str, ...]
    live: bool = True
    ready: bool = False


async def _serve(settings: Settings, chain: Chain) -> None:
    import asyncio

    from gate import log
    from gate.chain.loader import chain_files
    from gate.cli.running import on_hangup, or_stopped, stop_on_signals
    from gate.errors import WorkerLost
    from gate.kafka.connection import resolve_bootstrap, wait_for_kafka
    from gate.metrics import Metrics
    from gate.worker.health import HttpPort
    from gate.worker.reload import ChainReloader
    from gate.worker.worker import Worker

    logger = log.get(__name__)
    bootstrap, source = resolve_bootstrap(settings)
    metrics = Metrics()
    metrics.set_build_info(chain.hash)
    serving: Worker | None = None
    starting = _Starting((f"waiting for Kafka at {bootstrap}",))

    def files() -> list[Path]:
        return chain_files(settings.chain_path, secrets_dir=settings.secrets_dir)

    reloader = ChainReloader(lambda: load_chain_of(settings), metrics, files=files if settings.watch_chain else None)

    with stop_on_signals() as stop, on_hangup(reloader.request):
        async with HttpPort(
            settings.http_host, settings.http_port, metrics, lambda: serving.status() if serving else starting
        ) as port:
            logger.info(
                "worker_starting",
                kafka=bootstrap,
                kafka_from=source,
                http=port.url,
                chain=chain.hash,
                group=settings.group_id,
                mode=settings.mode,
            )
            if not await or_stopped(wait_for_kafka(settings, bootstrap), stop):
                return
            serving = Worker(settings, bootstrap, chain, metrics)
            try:
                async with reloader.serving(serving):
                    await serving.run(stop)
            except asyncio.CancelledError:  # signals set the event: whoever cancels this is an action
                logger.critical("worker_lost", task="main", what="was cancelled", note="the process ends")
                raise WorkerLost("the main task was cancelled") from None
    logger.info("worker_stopped")
