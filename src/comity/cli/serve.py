"""`comity serve`: the gateway before a chatbot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from comity.cli.ask import options_of
from comity.cli.output import note
from comity.cli.session import Session, pass_session, settings_options
from comity.errors import MissingExtra

if TYPE_CHECKING:
    from comity.serving.worker import Worker

_NEEDED = ("aiohttp", "fastapi", "opentelemetry", "prometheus_client", "uvicorn")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes behind the port, one a core.",
)
@click.option(
    "--gateway",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Upstreams and tenants; without it the model of the settings is served to all.",
)
@settings_options("memory", "embedder", "index", "model", "base_url", "timeout", "place")
@settings_options("hits", "relevance", "budget", "judge", "judge_timeout", "release", "rounds")
@settings_options("deny_unchecked")
@pass_session
def serve_command(
    session: Session, host: str, port: int, workers: int, gateway: Path | None
) -> None:
    """Serve the OpenAI API under the rules in force, and the rules' own API.

    Point a client's base_url to http://HOST:PORT/v1 and give it a key of `comity keys create`.
    A signal to end (Ctrl-C, SIGTERM) lets running answers finish.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtra("comity serve", "serve")
    from comity.serving.supervisor import check_several, run_several
    from comity.serving.worker import bind, serve

    worker = _worker(session, gateway)
    if workers > 1:
        check_several(worker, workers)
    with session.open_book():
        pass  # what is not there, or holds nothing, is told before anything starts
    with bind(host, port) as listener:
        names = dict.fromkeys((*filter(None, [worker.model]), *worker.gateway.upstreams))
        served = ", ".join(name for name in names if name != "*") or "any model"
        by = f" with {workers} workers" if workers > 1 else ""
        address = f"http://{host}:{listener.getsockname()[1]}/v1"

        def ready() -> None:
            note(f"{address} serves {served}{by}; Ctrl-C stops")

        if workers > 1:
            run_several(worker, listener, workers, ready)
        else:
            serve(worker, listener, ready)


def _worker(session: Session, gateway: Path | None) -> Worker:
    """What each worker is to do: as the gateway's file says, or with the model of the settings."""
    from comity.serving.config import read_gateway
    from comity.serving.worker import Worker, gateway_of

    settings = session.settings
    if settings.rewrite == "on" or settings.samples > 1:
        note("rewrite and samples are for comity ask and the library: the gateway does neither")
    config = read_gateway(gateway) if gateway is not None else gateway_of(settings)
    own = "" if gateway is not None or config.upstreams else settings.model
    return Worker(settings=settings, gateway=config, options=options_of(settings), model=own)
