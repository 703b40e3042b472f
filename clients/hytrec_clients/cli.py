"""`hytrec-client`: requests to a HyTRec server from a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from hytrec.command_options import expand_options
from hytrec.program import AsJson, program, run_program
from hytrec.signature import DEFAULT_TOP_K
from hytrec_clients.client import HytrecClient
from hytrec_clients.credentials import Credentials
from hytrec_clients.endpoints import DEFAULT_URL
from hytrec_clients.errors import InvalidRequest
from hytrec_clients.events import Events
from hytrec_clients.results import Key, Receipt
from hytrec_clients.retry import DEFAULT_TIMEOUT_S

app = program(
    "Send requests to a HyTRec server. Results go to stdout; a known error is one line on stderr and exit code 1."
)

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

URL_HELP = "host:port of the server's gRPC endpoint; several of one store as A,B,C."

UserId = Annotated[str, typer.Argument(help="The user's id.", show_default=False)]
Now = Annotated[int | None, typer.Option(help="Unix time to rank for, in seconds; default: the server's clock.")]


@dataclass(frozen=True, kw_only=True)
class NewEvents:
    """Options of a request that can write events."""

    item: Annotated[list[str] | None, "Item key of a new event; repeat for several."] = None
    time: Annotated[list[int] | None, "Its unix time in seconds; default: now."] = None
    behavior: Annotated[list[str] | None, "Its behavior key."] = None
    expected_event_count: Annotated[int | None, "Event count the user must have, else nothing is written."] = None
    request_id: Annotated[str | None, "Id of an earlier request to retry, 32 hex digits."] = None

    def arguments(self, client: HytrecClient) -> dict[str, Any]:
        """Arguments of the client's methods; keys become int where the server's are."""
        options = {"expected_event_count": self.expected_event_count, "request_id": _request_id(self.request_id)}
        if not self.item:
            if self.time or self.behavior:
                raise InvalidRequest(
                    "--time and --behavior belong to an event; give --item for each", field="item_keys"
                )
            return {"events": None, **options}
        types = client.key_types()
        events = Events(
            _keys("item_keys", self.item, types.item_key),
            self.time or [int(time.time())] * len(self.item),
            _keys("behavior_keys", self.behavior, types.behavior_key) if self.behavior else None,
        )
        return {"events": events, **options}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Arguments of `HytrecClient`."""

    url: Annotated[str, URL_HELP, "--endpoint"] = DEFAULT_URL
    timeout_s: Annotated[float, "Seconds for the request, all attempts together."] = DEFAULT_TIMEOUT_S
    credentials: Credentials = field(default_factory=Credentials)

    def open(self) -> HytrecClient:
        """The client."""
        return HytrecClient(self.url, timeout_s=self.timeout_s, credentials=self.credentials.or_environment())


@app.command()
@expand_options
def append(user_id: UserId, *, new: NewEvents, connection: Connection, as_json: AsJson = False) -> None:
    """Add events to a user; without --item, read the event count."""
    with connection.open() as client:
        receipt = client.append(user_id, **new.arguments(client))
    _show(_receipt(receipt), as_json=as_json)


@app.command()
@expand_options
def rank(
    user_id: UserId,
    candidates: Annotated[list[str], typer.Argument(help="Item keys to score.", show_default=False)],
    *,
    new: NewEvents,
    now: Now = None,
    connection: Connection,
    as_json: AsJson = False,
) -> None:
    """Add events, if there are any, and score candidates; the table is sorted, JSON keeps their order."""
    with connection.open() as client:
        arguments = new.arguments(client)
        keys = _keys("candidate_keys", candidates, client.key_types().item_key)
        ranking = client.rank(user_id, keys, now=now, **arguments)
    scored = list(zip(keys, ranking.scores.tolist(), strict=True))
    if not as_json:
        scored.sort(key=lambda pair: -pair[1])
    _show(_receipt(ranking.receipt), scored, as_json=as_json)


@app.command()
@expand_options
def recommend(
    user_id: UserId,
    *,
    new: NewEvents,
    top_k: Annotated[int, typer.Option(help="How many items.")] = DEFAULT_TOP_K,
    excluded: Annotated[list[str] | None, typer.Option("--exclude", help="Item key never to return.")] = None,
    exclude_recent: Annotated[bool, typer.Option("--exclude-recent", help="Leave out the user's last items.")] = False,
    eligible: Annotated[str | None, typer.Option(help="Choose from this list of the server alone.")] = None,
    now: Now = None,
    connection: Connection,
    as_json: AsJson = False,
) -> None:
    """Add events, if there are any, and print the best items of the catalogue, best first."""
    with connection.open() as client:
        best = client.recommend(
            user_id,
            top_k=top_k,
            excluded_keys=_keys("excluded_keys", excluded, client.key_types().item_key) if excluded else (),
            exclude_recent=exclude_recent,
            eligible=eligible,
            now=now,
            **new.arguments(client),
        )
    scored = list(zip(best.item_keys, best.scores.tolist(), strict=True))
    _show(_receipt(best.receipt), scored, as_json=as_json)


@app.command()
@expand_options
def forget(user_id: UserId, *, connection: Connection, as_json: AsJson = False) -> None:
    """Delete everything stored of a user."""
    with connection.open() as client:
        forgotten = client.forget(user_id)
    _show({"forgotten": forgotten}, as_json=as_json)


@app.command()
@expand_options
def ready(
    url: Annotated[str, typer.Option("--url", "--endpoint", help=URL_HELP)] = DEFAULT_URL,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to keep polling.")] = 0.0,
    *,
    credentials: Credentials,
    as_json: AsJson = False,
) -> None:
    """Whether the server is ready, or one of several; exit code 1 if not."""
    with HytrecClient(url, credentials=credentials.or_environment()) as client:
        is_ready = client.ready(wait_s=wait_s)
    _show({"ready": is_ready}, as_json=as_json)
    raise typer.Exit(0 if is_ready else 1)


def _keys(name: str, texts: Sequence[str], kind: type[Key]) -> list[Key]:
    """Keys of the server's type; an integer only as Python writes it, for 007 and 1_000 may be meant as strings."""
    for text in texts:
        if kind is int and not _INTEGER.fullmatch(text):
            raise InvalidRequest(
                f"{name} is {' '.join(texts)}; the keys of this server are integers, "
                "give plain decimal digits without leading zeros",
                field=name,
            )
    return [kind(text) for text in texts]


def _request_id(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise InvalidRequest(f"request_id is {text!r}; give 32 hex digits", field="request_id") from None


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "event_count": receipt.event_count,
        "applied": receipt.applied,
        "state_status": receipt.state_status.label,
        "model_fingerprint": receipt.model_fingerprint,
    }


def _show(facts: dict[str, Any], scored: Sequence[tuple[Key, float]] | None = None, *, as_json: bool) -> None:
    """Print scored items, if there are any, and the facts."""
    if as_json:
        lists = {} if scored is None else {"item_keys": [k for k, _ in scored], "scores": [s for _, s in scored]}
        sys.stdout.write(json.dumps(lists | facts, ensure_ascii=False) + "\n")
        return
    from rich.console import Console  # noqa: PLC0415 - --help is not to wait for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    if scored is not None:
        table = Table("", "item", "score")
        for place, (key, score) in enumerate(scored, 1):
            table.add_row(str(place), Text(str(key)), f"{score:.4f}")
        console.print(table)
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' ')}: {str(value).lower()}", markup=False, highlight=False)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes failed handshakes to stderr beside our one line
    run_program(app, extras={})
