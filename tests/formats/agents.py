"""The flow of the stored runs."""

import os
import subprocess

from kitaru_fs import files, flow, step
from kitaru_fs.sync import wait


@step
def build(name: str) -> dict[str, object]:
    root = files()
    (root / "private").write_text("0600\n")
    (root / "private").chmod(0o600)
    (root / "empty" / "deep").mkdir(parents=True)
    (root / "link").symlink_to("nowhere")
    with open(os.fsencode(root) + b"/caf\xe9", "wb") as file:
        file.write(b"\xff\r\n")
    subprocess.run(["git", "init", "-q", str(root / name)], check=True)
    (root / name / "main.py").write_text("print(1)\n")
    return {"name": name, "sizes": [1, 2.5, None]}


@step(retries=1, backoff=0)
def shaky() -> str:
    mark = files().parent.parent.parent / "shaky"
    if not mark.exists():
        mark.touch()
        (files() / "half").write_text("of the first attempt")
        raise ValueError("the first attempt fails")
    (files() / "whole").write_text("of the second")
    return "x" * 100_000


@step(effect="sends a mail", on_unknown="retry")
def send() -> int:
    return 3


@step
def finish(publish: bool) -> str:
    (files() / "private").unlink()
    return f"published: {publish}"


@flow
def stored(name: str) -> str:
    build(name)
    shaky()
    send()
    return finish(wait("publish", "Publish it?", schema=bool))
