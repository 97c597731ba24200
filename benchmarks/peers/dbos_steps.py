"""DBOS: `dbos_steps.py STEPS {sqlite-default,sqlite-fsync,postgres}`."""

import glob
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from dbos import DBOS
from sqlalchemy import event
from sqlalchemy.engine import Engine

ends: list[float] = []


@DBOS.step()
def answer(number: int) -> str:
    return f"{number:0200d}"


@DBOS.workflow()
def flow(steps: int) -> int:
    for number in range(steps):
        answer(number)
        ends.append(time.perf_counter())
    return steps


def find(program: str) -> str:
    found = shutil.which(program) or max(
        glob.glob(f"/usr/lib/postgresql/*/bin/{program}"), default=""
    )
    if not found:
        sys.exit(f"{program} was not found")
    return found


def as_postgres(command: list[str]) -> None:
    options = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def main(steps: int, setting: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        url = f"sqlite:///{folder}/dbos.sqlite"
        if setting == "sqlite-fsync":

            @event.listens_for(Engine, "connect")
            def wait_for_the_disk(connection, _record) -> None:
                connection.execute("PRAGMA synchronous = FULL")

        if setting == "postgres":
            data = f"{folder}/data"
            as_postgres([find("initdb"), "-D", data, "-U", "postgres", "-A", "trust"])
            options = f"-c listen_addresses= -c unix_socket_directories={folder}"
            as_postgres(
                [find("pg_ctl"), "-D", data, "-w", "-o", options, "-l", f"{folder}/log", "start"]
            )
            url = f"postgresql+psycopg://postgres@/dbos?host={folder}"
            subprocess.run(
                ["psql", "-h", folder, "-U", "postgres", "-qc", "CREATE DATABASE dbos"], check=True
            )
        try:
            DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
            DBOS.launch()
            flow(steps)
            DBOS.destroy()
        finally:
            if setting == "postgres":
                as_postgres([find("pg_ctl"), "-D", f"{folder}/data", "-m", "fast", "stop"])
    took = [after - before for before, after in itertools.pairwise(ends)]
    print(json.dumps({"step_ms": statistics.median(took) * 1000}))


main(int(sys.argv[1]), sys.argv[2])
