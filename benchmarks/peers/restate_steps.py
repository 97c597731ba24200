"""Restate: `restate_steps.py STEPS default SERVER` on a server of its own, at its defaults.

With further arguments INVOCATIONS it prints the steps a second of so many invocations at once.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config

service = restate.Service("bench")
PORTS = {"ingress": 28080, "admin": 29070, "node": 25122, "service": 29080}


def answer(number: int) -> str:
    return f"{number:0200d}"


@service.handler()
async def flow(ctx: restate.Context, steps: int) -> list[float]:
    took = []
    for number in range(steps):
        begun = time.perf_counter()
        await ctx.run_typed("answer", answer, number=number)
        took.append(time.perf_counter() - begun)
    return took


def post(url: str, body: object) -> bytes:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return answer.read()


async def until(url: str) -> None:
    for _ in range(600):
        try:
            await asyncio.to_thread(urllib.request.urlopen, url, None, 5)
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise TimeoutError(url)


async def main(steps: int, server: str, invocations: int) -> None:
    # One thread for each invocation that is waited for.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(invocations + 4))
    config = Config()
    config.bind = [f"127.0.0.1:{PORTS['service']}"]
    config.accesslog = config.errorlog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(restate.app([service]), config, shutdown_trigger=stop.wait))
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{PORTS['ingress']}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{PORTS['admin']}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{PORTS['node']}",
            "RESTATE_LOG_FILTER": "error",
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        process = subprocess.Popen(
            [server, "--base-dir", folder],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await until(f"http://127.0.0.1:{PORTS['admin']}/health")
            await asyncio.to_thread(
                post,
                f"http://127.0.0.1:{PORTS['admin']}/deployments",
                {"uri": f"http://127.0.0.1:{PORTS['service']}"},
            )
            ingress = f"http://127.0.0.1:{PORTS['ingress']}/bench/flow"
            await until(f"http://127.0.0.1:{PORTS['ingress']}/restate/health")
            begun = time.perf_counter()
            answers = await asyncio.gather(
                *(asyncio.to_thread(post, ingress, steps) for _ in range(invocations))
            )
            seconds = time.perf_counter() - begun
        finally:
            process.terminate()
            process.wait()
            stop.set()
            await serving
    took = [one for answer in answers for one in json.loads(answer)]
    print(
        json.dumps(
            {
                "step_ms": statistics.median(took) * 1000,
                "steps_per_second": steps * invocations / seconds,
            }
        )
    )


asyncio.run(main(int(sys.argv[1]), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1))
