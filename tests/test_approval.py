"""A step that must be approved: asked with its exact call, executed on what was approved alone."""

from __future__ import annotations

import pytest

from kitaru_fs import RunWaiting, WaitRejected, files, step
from kitaru_fs.errors import DivergenceError, UsageError


def deploying(bench, version=lambda: 1, **options):
    """A flow that deploys a version of what it wrote."""

    @step(approve=True, **options)
    async def deploy(version: int, where: str = "here") -> str:
        bench.did(f"deploy {version}")
        return f"{(files() / 'app').read_text()} {version} is {where}"

    @step
    async def build() -> str:
        (files() / "app").write_text("app")
        return "built"

    async def body():
        await build()
        return await deploy(version())

    return body


def waits(bench, run):
    with pytest.raises(RunWaiting):
        run()
    assert bench.git("status", "--porcelain") == ""
    [asked] = bench.run.waits
    return asked


def test_is_asked_for_with_the_exact_call(bench):
    body = deploying(bench)
    asked = waits(bench, lambda: bench.start(body))
    assert asked["name"] == "deploy"
    assert asked["question"] == "Run deploy(version=1)?"
    assert asked["schema"] == {"type": "boolean"}
    assert asked["call"]["arguments"] == {"version": 1}
    tree = asked["call"]["files"].split()[0]
    assert bench.git("cat-file", "-p", f"{tree}:app") == "app"
    assert bench.done == []

    bench.run.answer(True)
    assert bench.resume(body) == "app 1 is here"
    assert bench.log()[2:] == [
        "wait 2: deploy",
        "reply 3: deploy",
        "resume 4: asked",
        "step 5: deploy",
        "completed: main",
    ]


def test_what_was_approved_and_done_is_not_asked_for_again(bench):
    body = deploying(bench)
    waits(bench, lambda: bench.start(body))
    bench.run.answer(True)
    bench.resume(body)
    bench.git("checkout", "-q", "HEAD~1")
    assert bench.resume(body) == "app 1 is here"
    assert bench.counts == {"deploy 1": 1}


@pytest.mark.parametrize("how", [{"value": False}, {"reject": True, "reason": "not on a Friday"}])
def test_a_refusal_is_raised_and_the_step_is_not_executed(bench, how):
    body = deploying(bench)
    waits(bench, lambda: bench.start(body))
    bench.run.answer(**how)
    with pytest.raises(WaitRejected) as caught:
        bench.resume(body)
    assert ("Friday" in str(caught.value)) == ("reason" in how)
    assert (bench.done, bench.run.status) == ([], "failed")
    # A resume asks again.
    waits(bench, lambda: bench.resume(body))
    bench.run.answer(True)
    assert bench.resume(body) == "app 1 is here"


def test_other_arguments_are_approved_anew(bench):
    versions = [1]
    body = deploying(bench, version=lambda: versions[-1])
    waits(bench, lambda: bench.start(body))
    bench.run.answer(True)
    versions.append(2)
    asked = waits(bench, lambda: bench.resume(body))
    assert asked["question"] == "Run deploy(version=2)?"
    assert bench.done == []
    bench.run.answer(True)
    assert bench.resume(body) == "app 2 is here"
    assert bench.counts == {"deploy 2": 1}


def test_an_open_question_about_other_arguments_is_asked_anew(bench):
    versions = [1]
    body = deploying(bench, version=lambda: versions[-1])
    waits(bench, lambda: bench.start(body))
    versions.append(2)
    asked = waits(bench, lambda: bench.resume(body))
    assert asked["question"] == "Run deploy(version=2)?"


def test_other_files_are_approved_anew(bench):
    body = deploying(bench)
    first = waits(bench, lambda: bench.start(body))
    bench.run.answer(True)
    (bench.files / "app").write_text("evil")
    second = waits(bench, lambda: bench.resume(body))
    assert first["call"]["files"] != second["call"]["files"]
    assert bench.done == []
    bench.run.answer(True)
    assert bench.resume(body) == "evil 1 is here"


def test_one_approval_is_for_all_attempts(bench):
    tries = []

    @step(approve=True, retries=2, backoff=0)
    async def shaky() -> int:
        tries.append(1)
        (files() / "left").write_text("x")
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    async def body():
        return await shaky()

    waits(bench, lambda: bench.start(body))
    bench.run.answer(True)
    assert bench.resume(body) == 3


def test_killed_after_the_approval_it_is_executed_without_asking_again(bench):
    @step(approve=True)
    async def deploy() -> str:
        bench.did("deploy")
        (files() / "torn").write_text("x")
        bench.die()
        return "deployed"

    async def body():
        return await deploy()

    waits(bench, lambda: bench.start(body))
    bench.run.answer(True)
    bench.crash(body, resume=True)
    assert bench.resume(body) == "deployed"
    assert bench.counts == {"deploy": 2}


def test_several_at_once_and_by_map(bench):
    @step(approve=True)
    async def mail(to: str) -> str:
        bench.did(to)
        return to

    async def body():
        return await mail.map(["ada", "grace"])

    with pytest.raises(RunWaiting):
        bench.start(body)
    first, second = bench.run.waits
    bench.run.answer(True, wait=str(second["step"]))
    with pytest.raises(RunWaiting):
        bench.resume(body)
    assert bench.done == ["grace"]
    bench.run.answer(True, wait=str(first["step"]))
    assert bench.resume(body) == ["ada", "grace"]
    assert bench.counts == {"ada": 1, "grace": 1}


def test_of_a_plain_step(bench):
    @step(approve=True)
    def deploy(version: int) -> int:
        bench.did(version)
        return version

    def body():
        return [deploy(1), *deploy.map([2, 3])]

    with pytest.raises(RunWaiting):
        bench.start(body)
    bench.run.answer(True)
    with pytest.raises(RunWaiting):
        bench.resume(body)
    assert bench.done == ["1"]
    for wait in bench.run.waits:
        bench.run.answer(True, wait=str(wait["step"]))
    assert bench.resume(body) == [1, 2, 3]

    async def blocks():
        return deploy(1)

    with pytest.raises(UsageError, match="would block"):
        bench.start(blocks)


def test_added_to_a_step_that_was_executed_changes_nothing(bench):
    async def run(needed: bool):
        @step(name="deploy", approve=needed)
        async def deploy() -> str:
            bench.did("deploy")
            return "deployed"

        @step(approve=True)
        async def announce() -> str:
            return "announced"

        return [await deploy(), await announce()]

    waits(bench, lambda: bench.start(_of(run, False)))
    bench.run.answer(True)
    assert bench.resume(_of(run, True)) == ["deployed", "announced"]
    assert bench.counts == {"deploy": 1}


def test_executed_with_other_arguments_is_divergence(bench):
    versions = [1]
    body = deploying(bench, version=lambda: versions[-1])

    async def more():
        await body()
        return await step(approve=True)(_announce)()

    waits(bench, lambda: bench.start(more))
    bench.run.answer(True)
    waits(bench, lambda: bench.resume(more))
    versions.append(2)
    with pytest.raises(DivergenceError):
        bench.resume(more)


async def _announce() -> str:
    return "announced"


def _of(run, needed):
    async def body():
        return await run(needed)

    return body
