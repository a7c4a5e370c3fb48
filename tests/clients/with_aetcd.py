"""Puts aetcd (PyPI) through its paces: with_aetcd.py HOST PORT. Prints what it got, a line each."""
import asyncio
import sys

import aetcd


async def main(host, port):
    async with aetcd.Client(host=host, port=int(port)) as client:
        await client.put(b"py/a", b"plaintext-py-1")
        print((await client.get(b"py/a")).value.decode())
        await client.put(b"py/b", b"plaintext-py-2")
        print([kv.value.decode() for kv in await client.get_prefix(b"py/")])
        compare = [client.transactions.value(b"py/a") == b"plaintext-py-1"]
        success = [client.transactions.put(b"py/a", b"plaintext-py-3")]
        print((await client.transaction(compare=compare, success=success, failure=[]))[0])
        print((await client.transaction(compare=compare, success=success, failure=[]))[0])
        print(await client.replace(b"py/b", b"plaintext-py-2", b"plaintext-py-4"))
        watch = await client.watch(b"py/w")

        async def first():
            async for event in watch:
                return event.kv.value.decode()

        waiting = asyncio.create_task(first())
        await client.put(b"py/w", b"plaintext-py-5")
        print(await asyncio.wait_for(waiting, 10))
        lease = await client.lease(60)
        await client.put(b"py/leased", b"plaintext-py-6", lease=lease)
        print((await client.get(b"py/leased")).value.decode())
        await lease.revoke()
        print(await client.get(b"py/leased"))
        await client.delete(b"py/a")
        print(await client.get(b"py/a"))


asyncio.run(main(*sys.argv[1:]))
