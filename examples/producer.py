"""A producer for Longshore: submits jobs over NATS and waits until all have ended.

    python examples/producer.py nats://127.0.0.1:4222
"""

import asyncio
import json
import sys
import uuid

import nats


async def main(url):
    client = await nats.connect(url)
    stream = client.jetstream()
    run = uuid.uuid4().hex[:8]
    jobs = [
        {"id": f"hello-{run}-{number}", "resources": {"cpu": 0.1, "memory": "16MiB"},
         "spec": {"command": ["sh", "-c", f"echo hello from job {number}"]}}
        for number in range(5)
    ]
    outcomes, all_ended = {}, asyncio.Event()

    async def on_event(message):
        event = json.loads(message.data)
        if not event["id"].startswith(f"hello-{run}-"):
            return  # another producer's
        print(event["id"], event["state"], event.get("outcome") or "", event.get("reason") or "")
        if event["state"] == "ended":
            outcomes[event["id"]] = event["outcome"]
            if len(outcomes) == len(jobs):
                all_ended.set()

    # Listen first, so that nothing is missed. Events are best effort: durable is what `longshore.history` tells.
    await client.subscribe("longshore.event.job.*.default", cb=on_event)
    await client.flush()

    # Several in one message, and one alone. Once the stream has a message, it is not lost; sent again, it is the
    # same: each task's id says so, and the message's id spares the dispatcher the work.
    for number, payload in enumerate([{"tasks": jobs[:4]}, jobs[4]]):
        ack = await stream.publish("longshore.job.pending.default", json.dumps(payload).encode(),
                                   headers={"Nats-Msg-Id": f"{run}-{number}"})
        print(f"submitted as message {ack.seq} of {ack.stream}")

    try:
        await asyncio.wait_for(all_ended.wait(), timeout=60)
    except asyncio.TimeoutError:
        print("not heard of:", *(job["id"] for job in jobs if job["id"] not in outcomes), file=sys.stderr)
    await client.close()
    return 0 if list(outcomes.values()) == ["succeeded"] * len(jobs) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222")))
