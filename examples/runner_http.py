"""A runner for Longshore over HTTP, with nothing but Python's standard library: jobs as process groups, under a lease.

    python3 examples/runner_http.py http://127.0.0.1:8080 [ID]
"""

import json, os, queue, re, signal, subprocess, sys, threading, time, urllib.error, urllib.request

SLOTS, GRACE = 4, 5
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, as leases do


def now():
    return time.clock_gettime(CLOCK)


def seconds(span):  # "1m30s"
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h|d)", span))


class Runner:
    def __init__(self, url, name):
        self.runners, self.name, self.incarnation = f"{url}/v1/runners", name, f"{time.time_ns():020}"
        self.leased, self.known, self.until, self.lock = False, False, 0, threading.RLock()
        self.held = set()     # (id, token), from when it is taken until its end report is
        self.alive = {}       # (id, token) -> its process, or None while it starts
        self.ended_as = {}    # (id, token) -> the outcome, once it is asked to end
        self.over = set()     # what is over stays over
        self.unsaid = queue.Queue()

    def call(self, path, words=None, timeout=10):
        body = words and json.dumps({"incarnation": self.incarnation, **words}).encode()
        request = urllib.request.Request(self.runners + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            said = json.loads(answer.read() or b"{}")
        if said.get("v", 1) != 1:
            raise ValueError(f"it is of version {said['v']}, this speaks 1")
        return said

    def listed(self):
        with self.lock:
            return [{"id": id, "token": token} for id, token in self.held]

    # The lease: counts from when the answered request was sent; nothing is taken or runs without one.

    def renew(self, path, **words):
        sent = now()
        answer = self.call(path, {"running": self.listed(), **words}, timeout=2)
        with self.lock:
            if not path:
                self.lease, self.pause = seconds(answer["lease"]), seconds(answer["heartbeat"])
                self.turn, self.leased, self.known = answer["turn"], True, True
                self.assigned = {(task["id"], task["token"]) for task in answer["assignments"]}
            self.known = self.known and not answer.get("register")
            if self.leased and self.known:
                self.until = sent + self.lease
        self.stop(answer)

    def keep_the_lease(self):
        for number in range(1, sys.maxsize):
            try:
                if self.known:
                    self.renew(f"/{self.name}/heartbeat", number=number)
                elif self.leased or not self.alive:  # what lost its lease ends before there is another
                    self.renew("", id=self.name, kinds=["job"], slots=SLOTS)
            except (OSError, ValueError) as why:
                code = getattr(why, "code", 500)
                print(f"no answer: {why!r}", why.read().decode() if code == 400 else "", file=sys.stderr)
                if code == 400 and not self.leased:
                    os._exit(2)  # the same words will never be taken; nothing runs
                self.known = self.known and code >= 500
            time.sleep(self.pause if self.known else 0.2)

    def end_work_with_the_lease(self):
        while True:
            if self.leased and now() > self.until - min(1, self.lease / 2):
                self.give_up()
            time.sleep(0.05)

    def give_up(self):
        with self.lock:
            self.leased = self.known = False
            for held in self.alive:
                self.end(held, "handback", signal.SIGKILL)

    # What the dispatcher asks: sent again until a report or a heartbeat confirms it.

    def take(self, assignment):
        held = assignment["id"], assignment["token"]
        with self.lock:
            if not self.leased or held in self.held or held in self.over:
                return
            if len(self.alive) >= SLOTS or int(held[1].split(".")[1]) < self.turn and held not in self.assigned:
                return self.say_end(held, "refused", message="it is too much, or too old")
            self.held.add(held)
            self.alive[held] = None
        threading.Thread(target=self.run, args=(assignment, held), daemon=True).start()

    def stop(self, answer):
        for order in answer.get("stop", []):
            held = order["id"], order["token"]
            with self.lock:
                if held in self.alive:
                    self.end(held, "cancelled", signal.SIGTERM)
                elif held not in self.held and held not in self.over:
                    self.say_end(held, "handback", message="it does not run here")

    # Work: each command is a process group of its own, and ends as one.

    def end(self, held, outcome, how):
        with self.lock:
            self.ended_as.setdefault(held, outcome)
            if self.alive.get(held):
                os.killpg(self.alive[held].pid, how)  # it is there: it has not been waited for
                if how == signal.SIGTERM:
                    self.later(GRACE, held, outcome, signal.SIGKILL)

    def later(self, pause, *ending):
        timer = threading.Timer(pause, self.end, ending)
        timer.daemon = True
        timer.start()

    def run(self, assignment, held):
        task, process, code, why = assignment["task"], None, None, None
        spec = task.get("spec", {})
        own = {"LONGSHORE_TASK": held[0], "LONGSHORE_TOKEN": held[1], "LONGSHORE_ATTEMPT": str(assignment["attempt"])}
        try:
            with self.lock:
                process = self.alive[held] = subprocess.Popen(
                    spec["command"], cwd=spec.get("workdir"), env={**os.environ, **spec.get("env", {}), **own},
                    start_new_session=True)
                self.say(held, report="start")
                if held in self.ended_as:
                    self.end(held, None, signal.SIGKILL)  # it was to end before it had begun
            if "timeout" in task:
                self.later(seconds(task["timeout"]), held, "failed", signal.SIGTERM)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except (OSError, KeyError, TypeError, ValueError) as reason:
            why = repr(reason)
        with self.lock:
            outcome = self.ended_as.get(held)
            if process:
                self.end(held, None, signal.SIGKILL)  # and what it left behind
                code = process.wait()
            del self.alive[held]
            by_itself = "start_failed" if why else "failed" if code else "succeeded"
            self.say_end(held, outcome or by_itself, exit_code=code, message=why)

    # Reports: one at a time, in order, each until the dispatcher has taken it.

    def say_end(self, held, outcome, **words):
        self.over.add(held)
        self.say(held, report="end", outcome=outcome, **words)

    def say(self, held, **words):
        self.unsaid.put((held, {"kind": "job", "id": held[0], "token": held[1], **words}))

    def send_reports(self):
        while True:
            held, report = self.unsaid.get()
            while True:
                try:
                    self.call(f"/{self.name}/reports", report)
                    break
                except (OSError, ValueError) as why:
                    print(f"not taken: {why!r}", file=sys.stderr)
                    time.sleep(0.5)
            with self.lock:
                if report["report"] == "end":
                    self.held.discard(held)
            self.unsaid.task_done()

    def poll(self):
        while True:
            try:
                delivery = self.call(f"/{self.name}/assignments?wait=30s", timeout=40) if self.leased else {}
                self.stop(delivery)
                for assignment in delivery.get("assignments", []):
                    self.take(assignment)
            except (OSError, ValueError) as why:
                print(f"no delivery: {why!r}", file=sys.stderr)
            time.sleep(0.1)

    def live(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        for duty in (self.keep_the_lease, self.end_work_with_the_lease, self.send_reports, self.poll):
            threading.Thread(target=duty, daemon=True).start()
        try:
            threading.Event().wait()
        except (KeyboardInterrupt, SystemExit):
            self.give_up()
            deadline = now() + 5
            while self.held and now() < deadline:
                time.sleep(0.05)
            self.call(f"/{self.name}/leave", {"handback": []})


if __name__ == "__main__":
    Runner(*(sys.argv[1:] + ["http://127.0.0.1:8080", f"python-{os.getpid()}"][len(sys.argv) - 1:])[:2]).live()
