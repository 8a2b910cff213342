"""The runner of the examples with a fault, which the first argument names.

    python3 bad_runner.py FAULT http://127.0.0.1:8080 ID
"""

import json, os, pathlib, signal, sys, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
import runner_http


class StartsTwice(runner_http.Runner):
    def take(self, assignment):
        held = assignment["id"], assignment["token"]
        if held in self.alive:
            self.run(assignment, held)
        super().take(assignment)


class OutlivesItsLease(runner_http.Runner):
    def end_work_with_the_lease(self):
        pass


class SaysOnce(runner_http.Runner):
    def send_reports(self):
        while True:
            held, report = self.unsaid.get()
            try:
                self.call(f"/{self.name}/reports", report)
            except OSError:
                pass
            if report["report"] == "end":
                self.held.discard(held)


class DeafToTerm(runner_http.Runner):
    def live(self):
        signal.signal(signal.SIGTERM, lambda *_: None)  # what is ignored, its work would ignore too
        runner_http.signal.signal = lambda *_: None
        super().live()


class AlwaysSucceeds(runner_http.Runner):
    def say_end(self, held, outcome, **words):
        super().say_end(held, "succeeded", **words)


class ListsNothing(runner_http.Runner):
    def listed(self):
        return []


class KillsOneProcess(runner_http.Runner):
    def end(self, held, outcome, how):
        self.ended_as.setdefault(held, outcome)
        if self.alive.get(held):
            self.alive[held].kill()


class TakesTooMuch(runner_http.Runner):
    def take(self, assignment):
        runner_http.SLOTS = 1_000
        super().take(assignment)

    def renew(self, path, **words):
        super().renew(path, **({**words, "slots": 2} if "slots" in words else words))


class Careless(runner_http.Runner):
    """Dies of whatever it does not expect, reads no version, and keeps nothing in mind."""

    def call(self, path, words=None, timeout=10):
        body = words and json.dumps({"incarnation": self.incarnation, **words}).encode()
        request = urllib.request.Request(self.runners + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                said = json.loads(answer.read() or b"{}")
        except OSError:
            os._exit(1)
        return os._exit(1) if "a_later_field" in said else said

    def renew(self, path, **words):
        super().renew(path, **words)
        self.turn = 0

    def say_end(self, held, outcome, **words):
        super().say_end(held, outcome, **words)
        self.over.discard(held)
        self.ended_as.pop(held, None)  # or the next start under this token would be killed before it left a mark


fault, url, name = sys.argv[1:]
globals()[fault](url, name).live()
