"""Temporal: `temporal_steps.py STEPS default` on its development server, with a database file."""

import asyncio
import json
import socket
import statistics
import sys
import tempfile
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

with workflow.unsafe.imports_passed_through():
    import subprocess
    import time


@activity.defn
async def answer(number: int) -> str:
    return f"{number:0200d}"


@workflow.defn
class Flow:
    @workflow.run
    async def run(self, steps: int) -> list[float]:
        took = []
        for number in range(steps):
            begun = time.perf_counter()
            await workflow.execute_activity(
                answer, number, start_to_close_timeout=timedelta(minutes=1)
            )
            took.append(time.perf_counter() - begun)
        return took


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server = subprocess.Popen(
            [
                *("temporal", "server", "start-dev", "--headless", "--ip", "127.0.0.1"),
                *("--port", str(port), "--log-level", "error"),
                *("--db-filename", f"{folder}/temporal.db"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(300):
                try:
                    client = await Client.connect(f"127.0.0.1:{port}")
                    break
                except RuntimeError:
                    await asyncio.sleep(0.1)
            worker = Worker(
                client,
                task_queue="bench",
                workflows=[Flow],
                activities=[answer],
                workflow_runner=UnsandboxedWorkflowRunner(),
            )
            async with worker:
                took = await client.execute_workflow(
                    Flow.run, steps, id="bench", task_queue="bench"
                )
        finally:
            server.terminate()
            server.wait()
    print(json.dumps({"step_ms": statistics.median(took) * 1000}))


asyncio.run(main(int(sys.argv[1])))
