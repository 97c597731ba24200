"""The journal entry: what a commit records of a step, and how its message says it.

On disk, in every commit's tree:

    journal/SSSS/NNNNNN-NAME.json    the entry, UTF-8 JSON, indented (SSSS is NNNNNN // 100)
    journal/SSSS/NNNNNN-NAME.out     its output as JSON, where that is large; the entry's
                                     `output_file` then names it and `output` is null
    journal/SSSS/NNNNNN-NAME.DIGEST.EXT   binary content of its input or output; the entry's
                                     `beside` lists `DIGEST.EXT`, its JSON has `beside:DIGEST`

The commit's message is a subject, an optional body, and the trailers `Kitaru-*`. Readers ignore
keys, kinds and trailers that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from kitaru_fs.errors import FormatError
from kitaru_fs.quoting import printable, slug

__all__ = [
    "FORMAT",
    "KINDS",
    "MAX_STEPS",
    "Entry",
    "GivenOutput",
    "Usage",
    "add_usage",
    "commit_message",
    "decode_entry",
    "encode_entry",
    "entry_path",
    "parse_open",
    "parse_total",
    "parse_trailers",
]

FORMAT = 1
KINDS = frozenset(
    {"start", "step", "model", "tool", "wait", "reply", "message", "sleep", "child", "edit"}
    | {"intent", "failed", "resume", "fork", "end"}
)
MAX_STEPS = 1_000_000
_SUBJECT_LIMIT = 72

Status = Literal["ok", "failed", "waiting"]


NO_OUTPUT = msgspec.Raw(b"null")


class Usage(msgspec.Struct, omit_defaults=True):
    """What a step spent on models; `cost` is in `currency`."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    currency: str | None = None


class GivenOutput(msgspec.Struct, kw_only=True):
    """An output that was set by hand, for a call that is known by its key or by its place.

    Attributes:
        name: The step's name.
        nth: It is the N-th outcome of that name, from 1; 0 where equal names overlapped in time.
        key: The key of the call that returned another output.
        source: `run`, `step` and `commit` of that call's outcome.
    """

    name: str
    nth: int
    key: str
    output: msgspec.Raw
    source: dict[str, Any]


class Entry(msgspec.Struct, kw_only=True):
    """One journal entry.

    Attributes:
        step: The commit's number on its branch, from 0.
        key: The identity that replay matches by.
        started: UTC, ISO 8601 with milliseconds.
        duration: Seconds.
        input: The arguments, by name.
        error: `type`, `args`, `message` and `traceback` of an attempt that raised.
        files: The paths under `files/` that the step changed, quoted as git quotes.
        overlap: Names of the steps that ran at the same time.
        retry: Another attempt follows this failed one.
        kept: The ref that keeps what a failed attempt, or a flow that failed, left.
        cause: In `end`, the step whose failure the flow did not handle: `resume` tries it again.
        metadata: What `note()` added.
        observed: What the flow read of the world since the last commit (`now`, `uuid4`, `random`),
            the changes that it took up (`patched`), and the keys of calls that it gave up while
            they waited for the replay to end (`gave_up`).
        child: The run that a call of a flow made.
        beside: The ends of the names of the files that stand beside it.
        wait: In a `reply`, the step that asked.
        message: In the outcome of a receive, the step that brought what was received.
        delivery: In a `reply` or `message`, what tells it from every other one, so that it is taken
            in once.
        dropped: Steps that are not replayed any more: they followed a failure that ended the run,
            was tried again and went otherwise.
        source: In `fork`, `run`, `step` and `commit` that it was made from; in a step whose output
            was set by hand, the same of the step that returned another.
        anew: In `fork`: calls that had begun before it and had no outcome yet begin anew.
        given: In `fork`: outputs, set by hand, of calls that are made later.
        effect: What the step does outside of the run, which nothing can undo.
        idempotency_key: In `intent`, what the step may pass on so that it is done once.
        secrets: The places in `output`, `error` and `observed` that hold placeholders for secrets,
            to be filled in on replay (see `redaction`).
    """

    step: int
    key: str
    name: str
    kind: str
    status: Status = "ok"
    attempt: int = 1
    started: str = ""
    duration: float = 0.0
    input: Any = None
    output: msgspec.Raw = NO_OUTPUT
    output_file: str | None = None
    error: dict[str, Any] | None = None
    files: list[str] = []
    overlap: list[str] = []
    usage: Usage | None = None
    retry: bool | None = None
    kept: str | None = None
    cause: int | None = None
    metadata: dict[str, Any] | None = None
    observed: dict[str, list[Any]] | None = None
    child: str | None = None
    beside: list[str] | None = None
    wait: int | None = None
    message: int | None = None
    delivery: str | None = None
    dropped: list[int] | None = None
    source: dict[str, Any] | None = None
    anew: bool | None = None
    given: list[GivenOutput] | None = None
    effect: str | None = None
    idempotency_key: str | None = None
    left_out: list[dict[str, Any]] | None = None
    holder: dict[str, Any] | None = None
    secrets: list[str] | None = None


# Keys that an entry has even where they say nothing.
_ALWAYS = frozenset(
    {"step", "key", "name", "kind", "status", "attempt", "started", "duration", "input"}
    | {"output", "error", "files", "overlap", "usage"}
)
_decoder = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder()


def encode_entry(entry: Entry) -> bytes:
    """Returns the entry's file."""
    document = {
        name: value
        for name in entry.__struct_fields__
        if (value := getattr(entry, name)) is not None or name in _ALWAYS
    }
    return msgspec.json.format(_encoder.encode(document), indent=2) + b"\n"


def decode_entry(raw: bytes) -> Entry:
    """Returns an entry from its file.

    Raises:
        FormatError: The file is no entry.
    """
    try:
        entry = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise FormatError(
            f"a journal entry cannot be read: {error}",
            hint="the run may be of a newer version, or damaged: `kitaru doctor RUN`",
        ) from error
    if entry.child is not None and ("/" in entry.child or entry.child in ("", ".", "..")):
        # It is looked for, and made, under that name beside the run.
        raise FormatError(
            f"the entry of step {entry.step} names a child run that no directory can be:"
            f" {printable(entry.child, 80)!r}",
            hint="the commit was made by another program; rewind to one before it",
        )
    return entry


def entry_path(step: int, name: str, suffix: str = "json") -> tuple[str, str]:
    """Returns the shard and the file name of an entry (`0000`, `000003-search.json`)."""
    return f"{step // 100:04d}", f"{step:06d}-{slug(name)}.{suffix}"


def subject(entry: Entry, flow: str) -> str:
    """Returns the first line of the entry's commit message."""
    number, name = entry.step, entry.name
    match entry.kind:
        case "start":
            text = f"start: {flow}"
        case "end":
            text = f"{name}: {flow}"
        case "wait" | "reply" | "message" | "child" | "intent" | "failed" | "resume" | "edit":
            text = f"{entry.kind} {number}: {name}"
        case "fork":
            text = f"fork {number}: from {name}"
        case _:
            text = f"step {number}: {name}"
    return printable(text, _SUBJECT_LIMIT)


def commit_message(
    entry: Entry,
    *,
    run: str,
    flow: str,
    status: str,
    code: str = "",
    body: str = "",
    total: Usage | None = None,
    open_steps: Iterable[int] = (),
) -> str:
    """Returns the whole commit message of an entry.

    Args:
        entry: What the commit records.
        run: The run's id.
        flow: The flow's name.
        status: The run's status after this commit.
        code: The digest of `code/`.
        body: A short text for humans, between subject and trailers.
        total: What the run has spent, this entry included.
        open_steps: The steps that wait for a reply, a message, a time or a child run.
    """
    trailers = {
        "Kitaru-Run": run,
        "Kitaru-Step": str(entry.step),
        "Kitaru-Kind": entry.kind,
        "Kitaru-Name": entry.name,
        "Kitaru-Key": entry.key,
        "Kitaru-Status": status,
        "Kitaru-Attempt": str(entry.attempt),
        "Kitaru-Duration": f"{entry.duration:.3f}s",
    }
    if entry.usage is not None:
        usage = entry.usage
        trailers["Kitaru-Tokens"] = f"in={usage.input_tokens} out={usage.output_tokens}"
        if usage.cost is not None:
            trailers["Kitaru-Cost"] = f"{usage.cost:.6g} {usage.currency or 'USD'}"
    if total is not None and total.requests:
        trailers["Kitaru-Total"] = encode_total(total)
    if entry.effect:
        # Here too, so that whoever rewinds by git sees what that does not undo.
        trailers["Kitaru-Effect"] = entry.effect
    if code:
        trailers["Kitaru-Code"] = code
    if entry.delivery:
        trailers["Kitaru-Delivery"] = entry.delivery
    trailers["Kitaru-Format"] = str(FORMAT)
    paragraphs = [subject(entry, flow)]
    if body.strip():
        paragraphs.append("\n".join(_body_line(line) for line in body.strip().splitlines()[:20]))
    lines = [f"{key}: {printable(value, 500)}" for key, value in trailers.items()]
    if waiting := " ".join(map(str, open_steps)):
        # As long as it takes: a reader finds here what the run waits for.
        lines.append(f"Kitaru-Open: {waiting}")
    paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def parse_open(trailers: Mapping[str, str]) -> list[int]:
    """Returns the steps that the trailer `Kitaru-Open` names."""
    return [int(number) for number in trailers.get("Kitaru-Open", "").split()]


def _body_line(line: str) -> str:
    shown = printable(line, 200)
    # A line of dashes is where git thinks that a message ends and a patch begins.
    return f" {shown}" if shown.startswith("---") else shown


def add_usage(total: Usage, more: Usage | None) -> Usage:
    """Returns the sum of what was spent; a cost in another currency is left out."""
    if more is None:
        return total
    cost = total.cost
    if more.cost is not None and total.currency in (None, more.currency):
        cost = round((total.cost or 0.0) + more.cost, 9)
    return Usage(
        requests=total.requests + more.requests,
        input_tokens=total.input_tokens + more.input_tokens,
        output_tokens=total.output_tokens + more.output_tokens,
        cost=cost,
        currency=total.currency or more.currency,
    )


def encode_total(total: Usage) -> str:
    """Returns the value of the trailer `Kitaru-Total`."""
    text = f"requests={total.requests} in={total.input_tokens} out={total.output_tokens}"
    if total.cost is not None:
        text += f" cost={total.cost:.9g} currency={total.currency or 'USD'}"
    return text


def parse_total(text: str) -> Usage:
    """Returns the sum that a trailer `Kitaru-Total` names."""
    parts: dict[str, str] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        parts[name] = value
    cost = parts.get("cost")
    return Usage(
        requests=int(parts.get("requests", 0)),
        input_tokens=int(parts.get("in", 0)),
        output_tokens=int(parts.get("out", 0)),
        cost=float(cost) if cost else None,
        currency=parts.get("currency"),
    )


def parse_trailers(message: str) -> dict[str, str]:
    """Returns the `Kitaru-*` trailers of a commit message; empty for a commit that a human made."""
    found: dict[str, str] = {}
    last = message.rstrip("\n").rpartition("\n\n")[2]
    for line in last.splitlines():
        key, separator, value = line.partition(": ")
        if separator and key.startswith("Kitaru-"):
            found[key] = value
    return found if "Kitaru-Step" in found else {}
