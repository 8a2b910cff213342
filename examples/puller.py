"""Pulls the tasks of a queue over HTTP, one at a time, and runs their commands. Nothing but the standard library:

    python examples/puller.py http://127.0.0.1:8080 TOPIC

LONGSHORE_RUNNER names it: a task it was given and had not started is given to it again after a restart. It ends its work before it exits; should it be killed, whatever it runs in must do so.
"""
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request

URL, TOPIC = sys.argv[1:3]
NAME = os.environ.get("LONGSHORE_RUNNER", f"py-{os.getpid()}")
LEASE = int(os.environ.get("LONGSHORE_LEASE", "20s").rstrip("s"))  # counts from when what was answered was sent
MARGIN = min(2, LEASE / 4)  # seconds before its end at which work ends


leaving = waiting = False


class Leave(Exception):
    pass


def leave(*_):
    global leaving
    leaving = True
    if waiting:
        raise Leave


def ask(method, path, body=None, timeout=30):
    """Sends a request; its status and what it was answered, or 0 if there was no answer."""
    request = urllib.request.Request(URL + path, json.dumps(body or {}).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            said = json.loads(answer.read() or b"null")
            return answer.status, said if answer.status != 204 else int(answer.headers.get("Retry-After", 1))
    except urllib.error.HTTPError as problem:
        return problem.code, None
    except OSError:
        return 0, None


def run(command, lease, until):
    """Runs a command to its end, or until it is to stop or the lease is over; its exit code."""
    work = subprocess.Popen(command, start_new_session=True)
    again = time.monotonic() + LEASE / 4
    while work.poll() is None and time.monotonic() < until and not leaving:
        try:
            work.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            asked = time.monotonic()
            if asked < again:
                continue
            again = asked + LEASE / 4
            status, said = ask("POST", f"/v1/leases/{lease}/extend", timeout=MARGIN / 2)
            if status == 410 or (status == 200 and said["stop"]):
                break
            until = asked + LEASE - MARGIN if status == 200 else until
    try:
        os.killpg(work.pid, signal.SIGKILL)  # whole groups at once, also what it left behind
    except ProcessLookupError:
        pass
    return work.wait()


def pull():
    global waiting
    if ask("POST", "/v1/subscriptions", {"id": f"py-{TOPIC}", "topic": TOPIC, "lease": f"{LEASE}s"})[0] != 200:
        return time.sleep(1)
    waiting = True
    status, given = ask("PATCH", f"/v1/subscriptions/py-{TOPIC}?wait=20s&puller={NAME}")
    waiting = False
    if status != 200:
        return time.sleep(given or 1)
    lease, asked = given["lease"]["id"], time.monotonic()
    if leaving or ask("POST", f"/v1/leases/{lease}/start", timeout=LEASE / 4)[0] != 200:
        return time.sleep(0.2)
    code = run(given["jobSpec"]["command"], lease, asked + LEASE - MARGIN)
    if leaving and code < 0:
        return ask("POST", f"/v1/leases/{lease}/nack", {"reason": "its puller leaves"}, timeout=5)
    outcome = "succeeded" if code == 0 else "cancelled" if code < 0 else "failed"
    ask("POST", f"/v1/leases/{lease}/ack", {"outcome": outcome, "exit_code": code})


signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
try:
    while not leaving:
        pull()
except Leave:
    pass
