"""Watches that outlive etcd, by aetcd (PyPI): survival_aetcd.py HOST PORT PREFIX N. After `watching` it waits for a line of
input, while etcd is killed and started again. Prints how many watches then see a put.

A watch that fails is opened again when the failure says that etcd was away, and for no other reason."""
import asyncio
import sys

import aetcd

AWAY = (aetcd.ConnectionFailedError, aetcd.ConnectionTimeoutError)


async def until_it_works(action):
    while True:
        try:
            return await action()
        except AWAY:
            await asyncio.sleep(0.2)


async def watch(client, key, revision, ready):
    async def once():
        events = await client.watch(key, start_revision=revision)
        ready.set()
        async for event in events:
            if event.kv.value == b"plaintext-after":
                return True
        return False

    return await until_it_works(once)


async def main(host, port, prefix, count):
    clients = [aetcd.Client(host=host, port=int(port)) for _ in range(-(-int(count) // 3))]
    keys = [f"{prefix}{at:03}".encode() for at in range(int(count))]
    await clients[0].put(b"py/begun", b"plaintext-begun")
    revision = (await clients[0].get(b"py/begun")).mod_revision
    ready = [asyncio.Event() for _ in keys]
    watches = [
        asyncio.create_task(watch(clients[at // 3], key, revision, ready[at])) for at, key in enumerate(keys)
    ]
    await asyncio.gather(*(one.wait() for one in ready))
    print("watching", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for key in keys:
        await until_it_works(lambda: clients[0].put(key, b"plaintext-after"))
    done, _ = await asyncio.wait(watches, timeout=15)
    failures = {repr(task.exception()) for task in done if task.exception()}
    print(*failures, sep="\n", file=sys.stderr)
    print("alive", sum(1 for task in done if not task.exception() and task.result()), flush=True)


asyncio.run(main(*sys.argv[1:]))
