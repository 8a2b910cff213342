"""Pulls the tasks of a queue over HTTP, one at a time, and runs their commands. Nothing but the standard library:

    python examples/puller.py http://127.0.0.1:8080 TOPIC
"""
import json, subprocess, sys, time, urllib.error, urllib.request

URL, TOPIC = sys.argv[1:3]
LEASE = 20  # seconds; a lease counts from when what was answered was sent


def ask(method, path, body=None):
    """Sends a request; its status and what it was answered, or 0 if there was no answer."""
    request = urllib.request.Request(URL + path, json.dumps(body or {}).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as problem:
        return problem.code, json.loads(problem.read() or b"null")
    except OSError:
        return 0, None


def run(command, lease, until):
    """Runs a command to its end, or until the lease is over: then its exit code is nobody's business."""
    work = subprocess.Popen(command)
    while work.poll() is None and time.monotonic() < until:
        try:
            work.wait(timeout=LEASE / 4)
        except subprocess.TimeoutExpired:
            asked = time.monotonic()
            status, said = ask("POST", f"/v1/leases/{lease}/extend")
            if status == 410 or (status == 200 and said["stop"]):
                break
            until = asked + LEASE - 2 if status == 200 else until
    if work.poll() is None:
        work.kill()
    return work.wait()


while True:
    if ask("POST", "/v1/subscriptions", {"id": f"py-{TOPIC}", "topic": TOPIC, "lease": f"{LEASE}s"})[0] != 200:
        time.sleep(1)
        continue
    status, given = ask("PATCH", f"/v1/subscriptions/py-{TOPIC}?wait=20s")
    if status != 200:
        continue
    lease, asked = given["lease"]["id"], time.monotonic()
    if ask("POST", f"/v1/leases/{lease}/start")[0] == 200:
        code = run(given["jobSpec"]["command"], lease, asked + LEASE - 2)
        outcome = "succeeded" if code == 0 else "cancelled" if code < 0 else "failed"
        ask("POST", f"/v1/leases/{lease}/ack", {"outcome": outcome, "exit_code": code})
