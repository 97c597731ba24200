"""Files in a run's inbox: taken in once and in order, or refused, kept and reported."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from kitaru_fs import RunWaiting, receive, sleep, step, wait
from kitaru_fs.rundir.inbox import MAX_LETTER, Inbox


@step
async def act(number: int) -> int:
    return number


def waiting(bench, body):
    """Runs a flow until it waits; returns its inbox."""
    with pytest.raises(RunWaiting):
        bench.start(body)
    return bench.run.path / "inbox"


def again(bench, body):
    """Resumes a flow that waits on; returns what was noticed."""
    noticed = []
    with pytest.raises(RunWaiting):
        bench.resume(body, listener=lambda event: noticed.append((event.kind, event.name)))
    return [name for kind, name in noticed if kind == "refused"]


async def asks() -> Any:
    return await wait("publish it", "Publish?", schema=list[int])


def refused(inbox: Path) -> dict[str, str]:
    """What was kept aside, and why."""
    place = inbox / "refused"
    return {
        name: (place / f"{name}.why").read_text().strip()
        for name in sorted(os.listdir(place))
        if not name.endswith(".why")
    }


class TestReplies:
    @pytest.mark.parametrize(
        "name", ["publish it.json", "publish-it.json", "1.json", "publish it#x.json"]
    )
    def test_are_named_after_the_wait_or_its_step(self, bench, name):
        inbox = waiting(bench, asks)
        (inbox / name).write_text(" [1, 2]\n")
        assert bench.run.wake.reason == "inbox"
        assert bench.resume(asks) == [1, 2]
        assert list(inbox.iterdir()) == []
        assert list((inbox.parent / ".git/kitaru/taken").iterdir()) == []
        assert "reply 3: publish it" in bench.log()

    def test_other_names_are_left_alone(self, bench):
        inbox = waiting(bench, asks)
        for name in (".publish it.json", "publish it.json~", "publish it.json.tmp", "notes.txt"):
            (inbox / name).write_text("[1]")
        assert again(bench, asks) == []
        assert len(list(inbox.iterdir())) == 4

    def test_that_name_several_waits_are_refused(self, bench):
        async def body():
            return await asyncio.gather(wait("w", schema=int), wait("w", schema=int))

        inbox = waiting(bench, body)
        (inbox / "w.json").write_text("1")
        [told] = again(bench, body)
        assert "w.json is refused" in told
        assert "name the file after the step" in refused(inbox)["w.json"]
        (inbox / "1.json").write_text("1")
        (inbox / "2.json").write_text("2")
        assert bench.resume(body) == [1, 2]

    def test_dropped_before_the_question_are_messages(self, bench):
        """A second file that was meant for the first of two equal questions answers neither."""

        async def body():
            first = await wait("w", schema=int)
            await act(1)
            return [first, await wait("w", schema=int)]

        inbox = waiting(bench, body)
        (inbox / "w.json").write_text("1")
        (inbox / "w#again.json").write_text("1")
        with pytest.raises(RunWaiting):
            bench.resume(body)
        assert [line for line in bench.log() if line.startswith("message")] == ["message 4: w"]
        assert [one["step"] for one in bench.run.waits] == [6]


class TestRefused:
    def check(self, bench, inbox, name, why):
        told = again(bench, asks)
        assert len(told) == 1
        assert why in told[0]
        assert why in refused(inbox)[name]
        assert not os.path.lexists(inbox / name)
        # The wait is as open as before.
        (inbox / "publish it.json").write_text("[7]")
        assert bench.resume(asks) == [7]

    def test_a_wrong_type(self, bench):
        inbox = waiting(bench, asks)
        (inbox / "publish it.json").write_text('["x"]')
        self.check(bench, inbox, "publish it.json", "does not fit the wait 'publish it'")

    @pytest.mark.parametrize("content", ["[1, 2", "", "NaN", "[1] 2", "\ud800"])
    def test_what_is_no_json(self, bench, content):
        inbox = waiting(bench, asks)
        place = inbox / "publish it.json"
        place.write_bytes(content.encode("utf-8", "surrogatepass"))
        os.utime(place, (1, 1))
        self.check(bench, inbox, "publish it.json", "no valid JSON")

    def test_a_half_written_one_is_waited_for(self, bench):
        async def body():
            await act(1)
            return await wait("w", schema=list[int])

        (bench.root / "kitaru.toml").write_text('durability = "process"\nlinger = "1h"\n')

        async def main():
            handle = bench.handle(body)
            while not bench.run.refresh().waits:
                await asyncio.sleep(0.005)
            place = bench.run.path / "inbox" / "w.json"
            with open(place, "w") as file:
                file.write("[1, ")
                file.flush()
                await asyncio.sleep(0.2)
                file.write("2]")
            return await handle.result()

        assert asyncio.run(main()) == [1, 2]

    def test_a_huge_one(self, bench):
        inbox = waiting(bench, asks)
        with open(inbox / "publish it.json", "wb") as file:
            file.truncate(MAX_LETTER + 1)
        self.check(bench, inbox, "publish it.json", "bytes, and the most are")

    def test_a_symlink_is_not_followed(self, bench):
        secret = bench.root / "secret.json"
        secret.write_text("[1]")
        inbox = waiting(bench, asks)
        (inbox / "publish it.json").symlink_to(secret)
        self.check(bench, inbox, "publish it.json", "it is a symbolic link")
        assert secret.read_text() == "[1]"

    def test_a_fifo_does_not_hang(self, bench):
        inbox = waiting(bench, asks)
        os.mkfifo(inbox / "publish it.json")
        self.check(bench, inbox, "publish it.json", "it is no plain file")

    def test_a_directory(self, bench):
        inbox = waiting(bench, asks)
        (inbox / "publish it.json").mkdir()
        self.check(bench, inbox, "publish it.json", "it is no plain file")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_another_users(self, bench):
        inbox = waiting(bench, asks)
        (inbox / "publish it.json").write_text("[1]")
        os.chown(inbox / "publish it.json", 12345, 12345)
        self.check(bench, inbox, "publish it.json", "belongs to another user (uid 12345)")

    def test_two_of_one_name_are_both_kept(self, bench):
        inbox = waiting(bench, asks)
        for _ in range(2):
            (inbox / "publish it.json").write_text('"x"')
            again(bench, asks)
        assert sorted(refused(inbox)) == ["2-publish it.json", "publish it.json"]

    def test_an_inbox_that_is_a_symlink_takes_nothing_in(self, bench):
        inbox = waiting(bench, asks)
        elsewhere = bench.root / "elsewhere"
        inbox.rename(elsewhere)
        inbox.symlink_to(elsewhere)
        (elsewhere / "publish it.json").write_text("[1]")
        noticed = []
        with pytest.raises(RunWaiting):
            bench.resume(asks, listener=lambda event: noticed.append(event.name))
        assert [one for one in noticed if "is a symbolic link" in one] != []
        assert (elsewhere / "publish it.json").read_text() == "[1]"
        bench.run.answer([2])
        assert bench.resume(asks) == [2]

    def test_an_inbox_with_far_too_many_files_takes_nothing_in(self, bench, monkeypatch):
        monkeypatch.setattr("kitaru_fs.rundir.inbox.MAX_LETTERS", 20)
        inbox = waiting(bench, asks)
        for number in range(21):
            (inbox / f"{number + 10}.json").write_text("1")
        noticed = []
        with pytest.raises(RunWaiting):
            bench.resume(asks, listener=lambda event: noticed.append(event.name))
        assert any("holds more than 20 files" in one for one in noticed)
        assert len(list(inbox.iterdir())) == 21

    def test_a_missing_inbox_is_made_again(self, bench):
        inbox = waiting(bench, asks)
        inbox.rmdir()
        again(bench, asks)
        assert inbox.is_dir()


class TestMessages:
    def test_are_received_once_each_in_the_order_they_came(self, bench):
        async def body():
            return [await receive("t", schema=int) for _ in range(5)]

        inbox = waiting(bench, body)
        for number in range(3):
            (inbox / f"t#{number}.json").write_text(str(number))
        with pytest.raises(RunWaiting):
            bench.resume(body)
        for number in (3, 4):
            bench.run.send("t", number)
        assert bench.resume(body) == [0, 1, 2, 3, 4]
        assert sum("message" in line for line in bench.log()) == 5

    def test_wait_until_somebody_listens(self, bench):
        async def body():
            await wait("first", schema=bool)
            return [await receive("a"), await receive("b"), await receive("a")]

        waiting(bench, body)
        for topic, value in (("a", 1), ("b", "x"), ("a", 2)):
            bench.run.send(topic, value)
        assert bench.run.status == "waiting"
        bench.run.answer(True)
        assert bench.resume(body) == [1, "x", 2]

    def test_that_do_not_fit_are_refused_where_that_can_be_known(self, bench):
        from kitaru_fs.errors import UsageError

        async def body():
            return await receive("t", schema=int)

        waiting(bench, body)
        with pytest.raises(UsageError, match=r"does not fit what run .* receives on t"):
            bench.run.send("t", "x")
        bench.run.send("t", 1)
        assert bench.resume(body) == 1

    def test_that_do_not_fit_are_an_error_replayed_alike_and_the_next_is_received(self, bench):
        from kitaru_fs import MessageError

        said = []

        async def body():
            await wait("first", schema=bool)
            try:
                return await receive("t", schema=int)
            except MessageError as error:
                said.append(str(error))
            return [await receive("t", schema=int), await wait("second", schema=int)]

        waiting(bench, body)
        bench.run.send("t", "x")
        bench.run.send("t", 2)
        bench.run.answer(True)
        with pytest.raises(RunWaiting):
            bench.resume(body)
        bench.run.answer(3)
        assert bench.resume(body) == [2, 3]
        assert said[0] == said[1]

    def test_none_in_time_is_an_error(self, bench):
        async def body():
            try:
                return await receive("t", timeout=0)
            except TimeoutError as error:
                return type(error).__name__

        assert bench.start(body) == "WaitTimeout"

    def test_that_a_cancelled_receiver_did_not_get_go_to_the_next(self, bench):
        async def body():
            given_up = asyncio.ensure_future(receive("t"))
            await sleep(0)
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
            await act(1)
            return await receive("t")

        waiting(bench, body)
        bench.run.send("t", "for whoever listens")
        assert bench.resume(body) == "for whoever listens"

    def test_are_received_again_after_a_rewind(self, bench):
        async def body():
            first = await receive("t")
            return [first, await act(first), await receive("t")]

        waiting(bench, body)
        bench.run.send("t", 1)
        bench.run.send("t", 2)
        assert bench.resume(body) == [1, 1, 2]
        bench.run.rewind("act")
        assert bench.resume(body) == [1, 1, 2]

    def test_to_an_ended_run_are_refused_to_a_failed_one_kept(self, bench):
        from kitaru_fs.errors import ConflictError

        broken = [True]

        async def body():
            if broken:
                raise ValueError("broken")
            return await receive("t")

        with pytest.raises(ValueError, match="broken"):
            bench.start(body)
        bench.run.send("t", 1)
        assert (bench.run.status, bench.run.error["message"]) == ("failed", "broken")
        broken.clear()
        assert bench.resume(body) == 1
        with pytest.raises(ConflictError, match="is completed"):
            bench.run.send("t", 2)


class TestTakenInOnce:
    """Dying between claiming a file and letting go of it, a process loses and doubles nothing."""

    def test_killed_before_the_commit(self, bench):
        inbox = waiting(bench, asks)
        taken = inbox.parent / ".git/kitaru/taken"
        taken.mkdir()
        (taken / "0123456789abcdef~publish it.json").write_text("[5]")
        assert bench.resume(asks) == [5]
        assert list(taken.iterdir()) == []

    def test_killed_after_the_commit(self, bench):
        async def body():
            return [await receive("t"), await receive("t")]

        inbox = waiting(bench, body)
        (inbox / "t.json").write_text("1")
        with pytest.raises(RunWaiting):
            bench.resume(body)
        delivery = bench.git("log", "--format=%(trailers:key=Kitaru-Delivery,valueonly)").split()
        taken = inbox.parent / ".git/kitaru/taken"
        (taken / f"{delivery[0]}~t.json").write_text("1")
        again(bench, body)
        assert list(taken.iterdir()) == []
        # Nor on a branch that begins before it.
        (taken / f"{delivery[0]}~t.json").write_text("1")
        bench.git("checkout", "-q", ":/^wait 1:")
        again(bench, body)
        assert list(taken.iterdir()) == []
        assert sum(line.startswith("message") for line in bench.log()) == 0

    def test_killed_before_the_commit_of_several(self, bench):
        """They come in the order that they came in, and before what is sent now."""

        async def body():
            return [await receive("t", schema=int) for _ in range(9)]

        inbox = waiting(bench, body)
        came = 0
        for number in range(8):
            # Their names would put them the other way round.
            letter = inbox / f"t#{8 - number}.json"
            letter.write_text(str(number))
            while letter.stat().st_ctime_ns <= came:
                os.utime(letter)
            came = letter.stat().st_ctime_ns
        claiming = Inbox(inbox.parent)
        for name in claiming.letters():
            letter = claiming.read(name)
            assert letter is not None
            assert claiming.claim(letter) is not None
        bench.run.send("t", 8)
        assert bench.resume(body) == list(range(9))

    def test_a_name_that_is_too_long_is_refused(self, bench):
        inbox = waiting(bench, asks)
        name = "x" * 250 + ".json"
        (inbox / name).write_text("1")
        [told] = again(bench, asks)
        assert "its name is too long" in told
        assert list(refused(inbox)) == [name[:235]]
        (inbox / "publish it.json").write_text("[1]")
        assert bench.resume(asks) == [1]

    @pytest.mark.parametrize("opened_by", ["resume", "rewind", "doctor"])
    def test_killed_after_the_last_reply_s_commit(self, bench, opened_by):
        """Nobody waits any more who would look at what was claimed: whoever opens the run does."""

        async def body():
            await act(await wait("w", schema=int))
            return await act(2)

        inbox = waiting(bench, body)
        (inbox / "w.json").write_text("1")
        bench.in_child(
            lambda: bench.resume(body, listener=lambda event: event.name == "w" and bench.die())
        )
        taken = inbox.parent / ".git/kitaru/taken"
        assert [place.name.partition("~")[2] for place in taken.iterdir()] == ["w.json"]
        assert bench.log()[-1] == "reply 3: w"

        if opened_by == "resume":
            assert bench.resume(body) == 2
        elif opened_by == "rewind":
            bench.run.rewind("1")
        else:
            assert bench.run.checkup(repair=True).in_order
        assert list(taken.iterdir()) == []
