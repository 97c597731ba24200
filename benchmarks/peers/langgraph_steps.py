"""LangGraph with its SQLite saver: `langgraph_steps.py STEPS {default,fsync}`.

Both make a checkpoint a step, with `durability="sync"`. The saver sets WAL; SQLite's default then
is `synchronous = FULL`, so the default waits for the disk already.
"""

import itertools
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from typing import TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    number: int
    output: str


def main(steps: int, setting: str) -> None:
    ends: list[float] = []

    def answer(state: State) -> State:
        ends.append(time.perf_counter())
        return {"number": state["number"] + 1, "output": f"{state['number']:0200d}"}

    graph = StateGraph(State)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", lambda s: "answer" if s["number"] < steps else END)
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(f"{folder}/saver.db", check_same_thread=False)
        if setting == "fsync":
            connection.execute("PRAGMA synchronous = FULL")
        app = graph.compile(checkpointer=SqliteSaver(connection))
        config = {"configurable": {"thread_id": "1"}, "recursion_limit": steps + 10}
        app.invoke({"number": 0, "output": ""}, config, durability="sync")
        level = connection.execute("PRAGMA synchronous").fetchone()[0]
    took = [after - before for before, after in itertools.pairwise(ends)]
    print(json.dumps({"step_ms": statistics.median(took) * 1000, "synchronous": level}))


main(int(sys.argv[1]), sys.argv[2])
