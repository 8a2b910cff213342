"""A runner for Longshore: takes jobs over NATS, runs their commands, and keeps its lease.

    python examples/runner.py nats://127.0.0.1:4222 [ID]

It offers slots only, so whatever a job asks of cpu and memory fits. Its work never outlives its lease: after that
the dispatcher may give it to somebody else.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
import uuid

import nats

SLOTS, GRACE = 4, 5
POOL = os.environ.get("LONGSHORE_POOL", "default")
PREFIX = "longshore" if POOL == "default" else f"longshore-{POOL}"  # of all subjects of the pool
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, as leases do


def now():
    return time.clock_gettime(CLOCK)


def seconds(span):  # "1m30s"
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", span))


class Runner:
    def __init__(self, client, name):
        self.client, self.name, self.incarnation = client, name, f"{time.time_ns():020}"
        self.table, self.turn, self.listed = None, 0, set()  # what the last registration was answered
        self.connection, self.registered_on = 1, None        # after each reconnect it registers again
        self.leased, self.until, self.beats = asyncio.Event(), 0, 0
        self.held = set()     # (id, token), from when it is taken until its end is stored
        self.alive = {}       # (id, token) -> its process, or None while it starts
        self.ended_as = {}    # (id, token) -> the outcome, once we end it
        self.over = set()     # what is over stays over
        self.unsaid = asyncio.Queue()
        self.leave, self.refused = asyncio.Event(), None

    # The lease: counts from when the answered request was sent; nothing is taken or runs without one.

    async def ask(self, what, **words):
        payload = json.dumps({"incarnation": self.incarnation, **words}).encode()
        reply = await self.client.request(f"{PREFIX}.runner.{what}.{self.name}", payload, timeout=2)
        answer = self.read(reply.data)
        if "error" in answer:
            if what == "register" and answer["error"]["code"] == "malformed" and not self.alive:
                self.refused = answer["error"]["detail"]  # the same words will never be taken
                self.leave.set()
            self.registered_on = None  # whatever it is, registering settles it or is told why not
            raise nats.errors.Error(f"{what}: {answer['error']}")
        return answer

    def read(self, payload):
        words = json.loads(payload)
        if words.get("v", 1) != 1:
            raise nats.errors.Error(f"it is of version {words['v']}, this speaks 1")
        return words

    async def register(self):
        sent, running = now(), [{"id": id, "token": token} for id, token in self.held]
        on = self.connection
        answer = await self.ask("register", id=self.name, kinds=["job"], slots=SLOTS, running=running)
        if self.table not in (None, answer["table"]):
            self.lapse()  # what runs is another table's
        self.table, self.turn = answer["table"], answer["turn"]
        self.listed = {(task["id"], task["token"]) for task in answer["assignments"]}
        if self.alive and not self.leased.is_set():
            return  # too late: first everything ends
        for held in [held for held in self.alive if self.too_old(held)]:
            self.end(held, "handback")
        self.lease, self.pause = seconds(answer["lease"]), seconds(answer["heartbeat"])
        self.until, self.registered_on = sent + self.lease, on
        self.leased.set()

    async def heartbeat(self):
        sent, running = now(), [{"id": id, "token": token} for id, token in self.held]
        self.beats += 1
        answer = await self.ask("heartbeat", number=self.beats, running=running)
        if answer.get("register"):
            self.registered_on = None
        elif self.leased.is_set():
            self.until = sent + self.lease
        for order in answer.get("stop", []):
            self.stop(order)

    async def keep_the_lease(self):
        while True:
            pause = 0.2
            try:
                if self.registered_on == self.connection:
                    await self.heartbeat()
                    pause = self.pause
                elif self.leased.is_set() or not self.alive:
                    await self.register()
            except (nats.errors.Error, asyncio.TimeoutError) as why:
                print(f"no answer: {why!r}", file=sys.stderr)
            await asyncio.sleep(pause)

    async def end_work_with_the_lease(self):
        while True:
            if self.leased.is_set() and now() > self.until - min(1, self.lease / 2):
                self.lapse()
            await asyncio.sleep(0.05)

    def lapse(self):
        self.registered_on = None
        self.leased.clear()
        for held in self.alive:
            self.end(held, "handback")

    # Assignments: sent again until a report or a heartbeat confirms them.

    async def on_delivery(self, message):
        await self.leased.wait()
        delivery = self.read(message.data)
        for order in delivery.get("stop", []):
            self.stop(order)
        for assignment in delivery.get("assignments", []):
            held = assignment["id"], assignment["token"]
            if held in self.held or held in self.over:
                continue
            if why := self.misfit(assignment, held):
                self.say_end(held, assignment["kind"], "refused", message=why)
            else:
                self.held.add(held)
                self.alive[held] = None
                self.keep(self.run(assignment, held))

    def too_old(self, held):
        return int(held[1].split(".")[1]) < self.turn and held not in self.listed

    def misfit(self, assignment, held):
        asked = [name for name in ("arch", "os", "labels") if assignment["task"].get(name)]
        if self.too_old(held):
            return f"its token is older than turn {self.turn}"
        if assignment["kind"] != "job" or len(self.alive) >= SLOTS:
            return f"this runner takes {SLOTS} jobs at once"
        return f"this runner declares no {asked[0]}" if asked else None

    def stop(self, order):
        held = order["id"], order["token"]
        if held in self.alive:
            self.end(held, "cancelled", signal.SIGTERM)
        elif held not in self.held and held not in self.over:
            self.say_end(held, "job", "handback", message="it does not run here")

    # Work: each command is a process group of its own, and ends as one.

    def end(self, held, outcome, how=signal.SIGKILL):
        self.ended_as.setdefault(held, outcome)
        if self.alive.get(held):
            try:
                os.killpg(self.alive[held].pid, how)
            except ProcessLookupError:
                pass
            if how == signal.SIGTERM:
                asyncio.get_running_loop().call_later(GRACE, self.end, held, outcome)

    async def run(self, assignment, held):
        task, code, why = assignment["task"], None, None
        spec = task.get("spec", {})
        env = {**os.environ, **spec.get("env", {}), "LONGSHORE_TASK": held[0], "LONGSHORE_TOKEN": held[1],
               "LONGSHORE_ATTEMPT": str(assignment["attempt"])}
        if task.get("build"):
            env["LONGSHORE_BUILD"] = task["build"]
        try:
            self.alive[held] = process = await asyncio.create_subprocess_exec(
                *spec["command"], cwd=spec.get("workdir"), env=env, start_new_session=True)
        except (OSError, KeyError, TypeError, ValueError) as reason:
            outcome, why = "start_failed", repr(reason)
        else:
            self.say(held, "job", "start")
            if held in self.ended_as:
                self.end(held, None)  # it was to end before it had begun
            try:
                code = await asyncio.wait_for(process.wait(), seconds(task["timeout"]) if "timeout" in task else None)
            except asyncio.TimeoutError:
                self.end(held, "failed")
                code, why = await process.wait(), f"it took longer than {task['timeout']}"
            self.end(held, "failed")  # and what it left behind
            outcome = "succeeded" if code == 0 else self.ended_as[held]
        del self.alive[held]
        self.say_end(held, "job", outcome, exit_code=code, message=why)

    # Reports: one at a time, in order, each until the stream has it.

    def say_end(self, held, kind, outcome, **words):
        self.over.add(held)
        self.say(held, kind, "end", outcome=outcome, **words)

    def say(self, held, kind, what, **words):
        self.unsaid.put_nowait((held, f"{PREFIX}.{kind}.{what}.{self.name}", json.dumps(
            {"id": held[0], "token": held[1], "incarnation": self.incarnation, **words})))

    async def send_reports(self):
        while True:
            held, subject, payload = await self.unsaid.get()
            headers = {"Nats-Msg-Id": str(uuid.uuid5(uuid.NAMESPACE_OID, subject + payload))}
            stored = False
            while not stored:
                try:
                    stored = await self.client.jetstream().publish(subject, payload.encode(), headers=headers)
                    print(subject, payload)
                except (nats.errors.Error, asyncio.TimeoutError) as why:
                    print(f"not stored: {why!r}", file=sys.stderr)
                    await asyncio.sleep(0.5)
            if ".end." in subject:
                self.held.discard(held)
            self.unsaid.task_done()

    def keep(self, coroutine):
        self.tasks.append(asyncio.create_task(coroutine))

    async def live(self):
        self.tasks = []
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self.leave.set)
        await self.client.subscribe(f"{PREFIX}.assign.{self.name}", cb=self.on_delivery)
        for duty in (self.keep_the_lease, self.end_work_with_the_lease, self.send_reports):
            self.keep(duty())
        await self.leave.wait()
        if self.refused:
            sys.exit(f"refused: {self.refused}")
        self.tasks[0].cancel()
        self.lapse()
        while self.alive:
            await asyncio.sleep(0.05)
        await asyncio.wait_for(self.unsaid.join(), timeout=5)
        await self.ask("leave", handback=[])


async def main(url, name):
    async def register_again():  # what was sent while the connection was away is gone
        runner.connection += 1

    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=2,
                                reconnected_cb=register_again)
    runner = Runner(client, name)
    await runner.live()


if __name__ == "__main__":
    url, name = (sys.argv[1:] + ["nats://127.0.0.1:4222", f"python-{os.getpid()}"][len(sys.argv) - 1:])[:2]
    asyncio.run(main(url, name))
