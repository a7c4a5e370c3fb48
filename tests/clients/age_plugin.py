#!/usr/bin/env python3
"""A plugin of age for tests. It hides file keys, badly, and misbehaves as AGE_SCRIPT says."""
import base64, os, sys

mode = os.environ.get("AGE_SCRIPT", "")


def write(args, body):
    text = base64.b64encode(body).decode().rstrip("=")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    if len(text) % 64 == 0:
        lines.append("")
    sys.stdout.write("\n".join(["-> " + " ".join(args)] + lines) + "\n")
    sys.stdout.flush()


def read():
    args = sys.stdin.readline().rstrip("\n").split(" ")[1:]
    text = ""
    while args:
        line = sys.stdin.readline().rstrip("\n")
        text += line
        if len(line) < 64:
            break
    return args, base64.b64decode(text + "=" * (-len(text) % 4))


def ask(*args, body=b""):
    write(args, body)
    return read()


def hidden(key):
    return bytes(byte ^ 0x55 for byte in key)


heard = []
while not heard or heard[-1][0] != ["done"]:
    heard.append(read())
    if not heard[-1][0]:
        sys.exit(1)
with open("variables", "w") as file:
    file.write("\n".join(sorted(os.environ)))
assert ask("x-grease", "1")[0] == ["unsupported"]
if mode == "error":
    ask("error", "internal", body=b"the token \x1b[31mis not plugged in")
elif mode == "bad stanza":
    ask("error", "stanza", "0", "0", body=b"the stanza is too short")
elif mode == "garbage":
    print("hello", flush=True)
elif mode == "exit":
    sys.exit(1)
elif mode == "long":
    print("-> " + "x" * 20000, flush=True)
elif mode == "endless":
    while read and ask("msg", body=b"again")[0]:
        pass
elif mode == "hang":
    sys.stdin.read()
if mode == "question":
    answer, pin = ask("request-secret", body=b"PIN of the token")
    if answer != ["ok"] or pin != b"1234":
        ask("error", "internal", body=b"no PIN")
        sys.exit(0)
    assert ask("confirm", "WWVz", "Tm8", body=b"go on?")[0] == ["ok", "yes"]
    assert ask("msg", body=b"touch it")[0] == ["ok"]
for args, body in heard:
    if args[0] == "wrap-file-key":
        count = {"no stanza": 0, "many stanzas": 17}.get(mode, 1)
        for _ in range(count):
            long = {"much": 13000, "more": 10000}.get(mode, 0)
            ask("recipient-stanza", "0", "script", "x", body=hidden(body) + bytes(long))
        if mode == "more":
            ask("recipient-stanza", "0", "script", "x", body=bytes(2000))
        ask("labels", "some-label")
    if args[0] == "recipient-stanza" and mode != "silent":
        key = hidden(body[:16])
        key = {"other key": bytes(16), "short key": key[:15]}.get(mode, key)
        ask("file-key", "1" if mode == "index" else "0", body=key)
        if mode == "twice":
            ask("file-key", "0", body=key)
write(["done"], b"")
